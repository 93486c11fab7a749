#![deny(unused_must_use)]
use conductor::prelude::*;
use std::time::Duration;

#[task]
async fn child(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn parent(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.step("step", || async { anyhow::Ok(()) });
    ctx.step("timed", || async { anyhow::Ok(()) }).timeout(Duration::from_secs(1));
    ctx.transaction("transaction", async |_tx| anyhow::Ok(()));
    ctx.sleep("sleep", Duration::from_secs(1));
    ctx.sleep_until("until", std::time::SystemTime::now());
    ctx.invoke::<Child>("child", ());
    ctx.invoke_all::<Child>("children", [(), ()]);
    ctx.cancel(ctx.execution_id());
    ctx.checkpoint();
    ctx.until_cancelled();
    // Awaited, and the result is dropped.
    ctx.sleep("unread", Duration::from_secs(1)).await;
    Ok(())
}

fn main() {}
