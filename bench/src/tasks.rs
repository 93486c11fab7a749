//! The tasks that are measured, and where they leave their marks.

use std::sync::Mutex;
use std::time::Instant;

use conductor::prelude::*;

/// Does nothing.
#[task]
pub(crate) async fn noop(_ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    let _ = n;
    Ok(())
}

/// Does nothing, at most ten times at once.
#[task(queue = "limited", concurrency = 10)]
pub(crate) async fn limited(_ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    let _ = n;
    Ok(())
}

/// Does nothing, at most five times at once for each key.
#[task(queue = "limited", concurrency(limit = 5, key = payload.key))]
pub(crate) async fn keyed(_ctx: &TaskContext, key: i64, n: i64) -> anyhow::Result<()> {
    let _ = (key, n);
    Ok(())
}

/// Has no limit itself.
#[task(queue = "limited")]
pub(crate) async fn neighbour(_ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    let _ = n;
    Ok(())
}

/// Five steps that do nothing.
#[task]
pub(crate) async fn five(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let mut sum = 0;
    for key in ["one", "two", "three", "four", "five"] {
        sum += ctx.step(key, || async { anyhow::Ok(n) }).await?;
    }
    Ok(sum)
}

/// A hundred children that do nothing.
#[task]
pub(crate) async fn fan(ctx: &TaskContext, n: i64) -> anyhow::Result<usize> {
    let children = (0..100).map(|child| Noop { n: n + child });
    let done = ctx.invoke_all::<Noop>("children", children).await?;
    Ok(done.len())
}

/// Nobody wants it.
#[event]
pub(crate) struct Ping {
    pub(crate) n: i64,
}

/// Starts an execution.
#[event]
pub(crate) struct Receipt {
    pub(crate) n: i64,
}

/// Each is waited for by one execution.
#[event]
pub(crate) struct Paid {
    pub(crate) order: i64,
}

/// All wait for it.
#[event]
pub(crate) struct Shout {}

/// Is started by events.
#[task(event(Receipt))]
pub(crate) async fn file(_ctx: &TaskContext, payload: Receipt) -> anyhow::Result<()> {
    let _ = payload.n;
    Ok(())
}

/// Waits for the payment of its order, and marks when it goes on.
#[task]
pub(crate) async fn ship(ctx: &TaskContext, order: i64) -> anyhow::Result<()> {
    ctx.wait_for_event::<Paid>("payment")
        .when(Paid::order.eq(order))
        .await?;
    put_mark();
    Ok(())
}

/// Waits for the event that all wait for.
#[task]
pub(crate) async fn listen(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.wait_for_event::<Shout>("shout").await?;
    Ok(())
}

static STARTS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

/// Marks when it started.
#[task]
pub(crate) async fn mark(_ctx: &TaskContext) -> anyhow::Result<()> {
    put_mark();
    Ok(())
}

fn put_mark() {
    if let Ok(mut starts) = STARTS.lock() {
        starts.push(Instant::now());
    }
}

/// The marks since the last call.
pub(crate) fn take_marks() -> Vec<Instant> {
    STARTS
        .lock()
        .map(|mut starts| std::mem::take(&mut *starts))
        .unwrap_or_default()
}
