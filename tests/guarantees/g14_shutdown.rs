//! G14: a shutdown writes what finished and releases the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Status};

use crate::support::{
    Gate, Process, count, eventually, info, narrow, number, orchestrators, soon, start_with,
};

#[task(name = "g14-gated", priority = 1)]
async fn g14_gated(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(ctx.attempt())
}

#[task(name = "g14-quick")]
async fn g14_quick(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "g14-noted")]
async fn g14_noted(ctx: &TaskContext) -> anyhow::Result<()> {
    sqlx::query("insert into noted (execution) values ($1)")
        .bind(ctx.execution_id())
        .execute(ctx.state::<Conductor>().pool())
        .await?;
    Ok(())
}

fn stop(worker: Handle) -> tokio::task::JoinHandle<conductor::Result<()>> {
    tokio::spawn(worker.stop())
}

#[task(name = "g14-hangs")]
async fn g14_hangs(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.step("here", async || anyhow::Ok(())).await?;
    std::future::pending().await
}

#[conductor::test]
async fn a_second_signal_ends_the_process_at_once(test: TestConductor) -> anyhow::Result<()> {
    let mut process = Process::start(&test)?;
    test.invoke::<G14Hangs>(()).await?;
    // It is claimed before its handler begins, and would be given back at once.
    let steps = "select count(*) from conductor.steps";
    eventually("the handler", || async { number(&test, steps).await == 1 }).await;
    // The first one leaves the handler 30 s.
    let began = Instant::now();
    while process.is_running()? {
        process.terminate()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(process.ended().await?.code(), Some(130));
    Ok(())
}

/// Three workers, one of which is replaced at a time, as a deploy does.
#[conductor::test]
async fn rolling_restarts_lose_and_repeat_nothing(test: TestConductor) -> anyhow::Result<()> {
    const RESTARTS: usize = 5;
    const JOBS: i64 = 4000;
    sqlx::query("create table noted (execution uuid primary key)")
        .execute(test.pool())
        .await?;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start(&test)?);
    }
    let all_work = async || {
        eventually("the processes", async || {
            orchestrators(&test).await.unwrap() == 3
        })
        .await;
    };
    all_work().await;
    for restart in 0..RESTARTS {
        // So that each is told to end while it works.
        test.invoke_batch::<G14Noted>((0..JOBS).map(|_| ())).await?;
        let oldest = restart % processes.len();
        let mut old = std::mem::replace(&mut processes[oldest], Process::start(&test)?);
        old.terminate()?;
        assert_eq!(old.ended().await?.code(), Some(0));
        // As a deploy does: the next one follows when this one works.
        all_work().await;
    }
    let jobs = JOBS * i64::try_from(RESTARTS)?;
    eventually("the end", async || {
        count(&test, "state = 'completed'").await.unwrap() == jobs
    })
    .await;
    for process in &mut processes {
        process.terminate()?;
        assert_eq!(process.ended().await?.code(), Some(0));
    }
    // A second run of one would violate the primary key, which would be a failure.
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    assert_eq!(orchestrators(&test).await?, 0);
    let noted: i64 = sqlx::query_scalar("select count(*) from noted")
        .fetch_one(test.pool())
        .await?;
    assert_eq!(noted, jobs);
    Ok(())
}

#[conductor::test]
async fn a_running_handler_may_finish_and_is_written(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<G14Gated>(()).await?;
    gate.entered(1).await;
    let stopping = stop(worker);
    // A stopping worker claims nothing.
    let later = test.invoke::<G14Quick>(()).await?;
    tokio::task::yield_now().await;
    assert!(!stopping.is_finished());
    gate.open(1);
    soon("the stop", stopping).await??;
    assert_eq!(run.status().await?, Status::Completed);
    assert_eq!(info(&test, run.id()).await?.claim, 1);
    assert_eq!(orchestrators(&test).await?, 0);
    assert_eq!(later.status().await?, Status::Pending);
    Ok(())
}

#[conductor::test]
async fn what_is_not_done_by_the_deadline_is_released_and_not_charged(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = test
        .orchestrator()
        .worker(narrow(5))
        .allow_unserved_queues()
        .shutdown_deadline(Duration::from_millis(50))
        .state(gate.clone())
        .build()?
        .start()
        .await?;
    let run = test.invoke::<G14Gated>(()).await?;
    gate.entered(1).await;
    soon("the stop", worker.stop()).await?;
    gate.dropped().await;
    let released = info(&test, run.id()).await?;
    assert_eq!(released.state, Status::Pending);
    assert_eq!((released.failures, released.crashes), (0, 0));
    assert!(test.failures(run.id()).await?.is_empty());
    assert_eq!(orchestrators(&test).await?, 0);

    gate.open(1);
    let other = start_with(&test, 5, gate.clone()).await?;
    assert_eq!(soon("the result", run.result()).await?, 1);
    other.stop().await?;
    Ok(())
}

#[conductor::test]
async fn what_was_claimed_and_not_started_is_released(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    // Quick ones make the worker claim ahead.
    test.invoke_batch::<G14Quick>((0..500).map(|_| ())).await?;
    eventually("the quick ones", || async {
        count(&test, "state = 'completed'").await.unwrap() == 500
    })
    .await;
    let mut tx = test.pool().begin().await?;
    let gated = test.invoke::<G14Gated>(()).in_transaction(&mut tx).await?;
    for _ in 0..50 {
        test.invoke::<G14Quick>(()).in_transaction(&mut tx).await?;
    }
    tx.commit().await?;
    gate.entered(1).await;
    let stopping = stop(worker);
    eventually("all but the running one are pending", || async {
        count(&test, "state = 'pending'").await.unwrap() == 50
    })
    .await;
    assert_eq!(count(&test, "state = 'running'").await?, 1);
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    gate.open(1);
    soon("the stop", stopping).await??;
    assert_eq!(gated.status().await?, Status::Completed);
    test.drain().await?;
    assert_eq!(count(&test, "state = 'completed'").await?, 551);
    Ok(())
}

#[conductor::test]
async fn a_process_that_is_told_to_end_loses_nothing_and_exits_0(
    test: TestConductor,
) -> anyhow::Result<()> {
    const JOBS: i64 = 3000;
    sqlx::query("create table noted (execution uuid primary key)")
        .execute(test.pool())
        .await?;
    let test = {
        let conductor = Conductor::clone(&test);
        test.state(conductor)
    };
    test.invoke_batch::<G14Noted>((0..JOBS).map(|_| ())).await?;
    let mut process = Process::start(&test)?;
    eventually("some work", || async {
        count(&test, "state = 'completed'").await.unwrap() > 100
    })
    .await;
    process.terminate()?;
    assert!(process.ended().await?.success());
    assert_eq!(orchestrators(&test).await?, 0);
    assert_eq!(count(&test, "state = 'running'").await?, 0);
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    let noted = "select count(*) from noted";
    let done: i64 = sqlx::query_scalar(noted).fetch_one(test.pool()).await?;
    assert_eq!(count(&test, "state = 'completed'").await?, done);
    // A second run would violate the primary key.
    test.drain().await?;
    assert_eq!(count(&test, "state = 'completed'").await?, JOBS);
    assert_eq!(count(&test, "failures > 0").await?, 0);
    Ok(())
}

/// As beside a web server: the program decides when the workers end.
#[conductor::test]
async fn run_until_lets_a_running_handler_finish(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let workers = test
        .orchestrator()
        .worker(narrow(1))
        .allow_unserved_queues()
        .state(gate.clone())
        .build()?;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(workers.run_until(ended));
    let run = test.invoke::<G14Gated>(()).await?;
    gate.entered(1).await;
    assert!(!running.is_finished());
    end.send(()).unwrap();
    gate.open(1);
    soon("the end", running).await??;
    assert_eq!(run.status().await?, Status::Completed);
    assert_eq!(orchestrators(&test).await?, 0);
    Ok(())
}

#[conductor::test]
async fn run_until_ends_at_once_if_its_future_is_ready(test: TestConductor) -> anyhow::Result<()> {
    let workers = test.orchestrator().allow_unserved_queues();
    let workers = workers.state(Gate::new()).build()?;
    soon("the end", workers.run_until(async {})).await?;
    assert_eq!(orchestrators(&test).await?, 0);
    Ok(())
}

#[conductor::test]
async fn run_until_returns_if_the_application_closes_its_pool(
    test: TestConductor,
) -> anyhow::Result<()> {
    let pool = sqlx::PgPool::connect(test.url()).await?;
    let workers = Orchestrator::builder(Conductor::from_pool(pool.clone()))
        .worker(narrow(1))
        .allow_unserved_queues()
        .state(Gate::new())
        .build()?;
    let running = tokio::spawn(workers.run_until(std::future::pending::<()>()));
    eventually("the workers", async || {
        orchestrators(&test).await.unwrap() == 1
    })
    .await;
    pool.close().await;
    let ended = soon("the end", running).await?;
    assert!(
        matches!(ended, Err(conductor::Error::Broken(_))),
        "{ended:?}"
    );
    Ok(())
}
