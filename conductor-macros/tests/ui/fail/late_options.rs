#![allow(unused)]
use conductor::prelude::*;
use std::time::Duration;

#[task]
async fn child(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

async fn delayed(conductor: Conductor) -> anyhow::Result<()> {
    let run = conductor.invoke::<Child>(Child { n: 1 }).await?.delay(Duration::from_secs(1));
    run.result().await?;
    Ok(())
}

async fn within(conductor: Conductor) -> anyhow::Result<()> {
    let mut tx = conductor.pool().begin().await?;
    conductor.invoke::<Child>(Child { n: 1 }).await?.in_transaction(&mut tx);
    Ok(())
}

// Here the value is the child's own output, so the compiler names that type.
#[task]
async fn parent(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.invoke::<Child>("child", Child { n: 1 }).await?.timeout(Duration::from_secs(1));
    Ok(())
}

fn main() {}
