//! Four queues with a worker each, in one process: slow jobs do not delay quick ones.
//!
//! In one terminal, the workers, which print a line for each job that is done:
//!
//!     cargo run --example 06_queues
//!
//! In another one, invoke ten jobs for each queue:
//!
//!     cargo run --example 06_queues -- invoke flood n=10
//!
//! | queue | handlers at once | a job takes | ten jobs take |
//! | --- | --- | --- | --- |
//! | fast | 5 | 100 ms | 0.2 s |
//! | default | 2 | 300 ms | 1.5 s |
//! | normal | 3 | 500 ms | 2 s |
//! | slow | 1 | 2 s | 20 s |
//!
//! While the slow jobs run:
//!
//!     cargo run --example 06_queues -- queues
//!     cargo run --example 06_queues -- queues pause slow
//!     cargo run --example 06_queues -- list --queue slow --state pending
//!     cargo run --example 06_queues -- why ID
//!     cargo run --example 06_queues -- queues resume slow
//!
//! In a paused queue, the running job continues, and the others wait: `the queue "slow" is paused`. A
//! second process with more handlers takes its share of the slow jobs:
//!
//!     cargo run --example 06_queues -- worker --queue slow:4

use std::time::{Duration, Instant};

use conductor::prelude::*;

/// A job in the queue of tasks without `queue`.
#[task(name = "job-default")]
async fn job_default(_ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    work("default", n, Duration::from_millis(300)).await
}

/// A quick job.
#[task(name = "job-fast", queue = "fast")]
async fn job_fast(_ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    work("fast", n, Duration::from_millis(100)).await
}

/// A slow job.
#[task(name = "job-slow", queue = "slow")]
async fn job_slow(_ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    work("slow", n, Duration::from_secs(2)).await
}

/// A normal job.
#[task(name = "job-normal", queue = "normal")]
async fn job_normal(_ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    work("normal", n, Duration::from_millis(500)).await
}

/// Simulates work.
async fn work(queue: &str, n: u32, takes: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    tokio::time::sleep(takes).await;
    println!("{queue}: job {n} done after {:?}", began.elapsed());
    Ok(())
}

/// Invokes `n` jobs for each queue and does not wait for them.
#[task]
async fn flood(ctx: &TaskContext, n: u32, conductor: State<Conductor>) -> anyhow::Result<u32> {
    // Invokes all or none, exactly once, although this handler can run twice. `ctx.invoke` would wait for results.
    ctx.transaction("flood", async |tx| {
        let default = (1..=n).map(|n| JobDefault { n });
        let fast = (1..=n).map(|n| JobFast { n });
        let slow = (1..=n).map(|n| JobSlow { n });
        let normal = (1..=n).map(|n| JobNormal { n });
        for batch in [
            conductor.invoke_batch::<JobDefault>(default),
            conductor.invoke_batch::<JobFast>(fast),
            conductor.invoke_batch::<JobSlow>(slow),
            conductor.invoke_batch::<JobNormal>(normal),
        ] {
            batch.in_transaction(&mut *tx).await?;
        }
        anyhow::Ok(())
    })
    .await?;
    Ok(n * 4)
}

conductor::main! {
    workers: [
        Worker::queue("default").concurrency(2),
        Worker::queue("fast").concurrency(5),
        Worker::queue("slow").concurrency(1),
        Worker::queue("normal").concurrency(3),
    ],
    setup: async |app| {
        let conductor = app.conductor().clone();
        Ok(app.state(conductor))
    },
}
