//! A paused queue: nothing more of it starts, in any process, within a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{Gate, count, eventually, number, run_sql, soon, start_with};

#[task(name = "pause-quick")]
async fn pause_quick(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "pause-gated")]
async fn pause_gated(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(())
}

#[task(name = "pause-elsewhere", queue = "pause")]
async fn pause_elsewhere(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

const RUNNING: &str = "select count(*) from conductor.live_executions where state = 'running'";

/// What a worker has claimed for its quick handlers and not started is given back.
async fn pauses(test: TestConductor, pause: &str) -> anyhow::Result<()> {
    const AHEAD: i64 = 40;
    let gate = Gate::new();
    let worker = start_with(&test, 1, Arc::clone(&gate)).await?;
    test.invoke_batch::<PauseQuick>((0..500).map(|_| ()))
        .await?;
    worker.drained().await?;
    test.invoke_batch::<PauseGated>((0..500).map(|_| ()))
        .await?;
    gate.entered(1).await;
    let ahead = number(&test, RUNNING).await;
    assert!(
        ahead > AHEAD,
        "only {ahead} were claimed; the worker knows no quick handlers"
    );

    let before = count(&test, "state = 'completed'").await?;
    run_sql(&test, pause).await?;
    let began = Instant::now();
    // A stalled worker would give them back anyway; this one goes on.
    while number(&test, RUNNING).await > 0 {
        gate.open(1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed();
    let ended = count(&test, "state = 'completed'").await? - before;
    assert!(ended < AHEAD / 2, "{ended} of {ahead} more ran in {took:?}");
    let queues = test.queues().await?;
    let queue = queues.iter().find(|queue| queue.name == "default").unwrap();
    assert!(queue.paused);
    assert_eq!(
        (queue.waiting, queue.running, queue.workers),
        (500 - ended, 0, 1)
    );

    // Nothing was charged, and all goes on.
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    gate.open(500);
    assert!(test.resume_queue("default").await?);
    soon("the rest", worker.drained()).await?;
    assert_eq!(count(&test, "state = 'completed'").await?, 1000);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_pause_gives_back_what_has_not_started(test: TestConductor) -> anyhow::Result<()> {
    pauses(test, "select conductor.pause_queue('default')").await
}

#[conductor::test]
async fn a_pause_is_seen_without_its_notification(test: TestConductor) -> anyhow::Result<()> {
    pauses(
        test,
        "update conductor.queues set paused = true where name = 'default'",
    )
    .await
}

#[conductor::test]
async fn what_runs_goes_on_and_what_is_invoked_waits(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 5, Arc::clone(&gate)).await?;
    let runs = test.invoke::<PauseGated>(()).await?;
    gate.entered(1).await;
    assert!(test.pause_queue("default").await?);
    let waits = test.invoke::<PauseQuick>(()).await?;
    let other = test.invoke::<PauseElsewhere>(()).await?;
    gate.open(1);
    soon("its end", runs.result()).await?;
    // Not by chance: another process finds nothing either, and does not wait for what is paused.
    soon("its end", test.drain()).await?;
    assert_eq!(waits.status().await?, Status::Pending);
    assert_eq!(other.status().await?, Status::Completed);
    assert!(test.resume_queue("default").await?);
    soon("its end", waits.result()).await?;
    worker.stop().await?;
    Ok(())
}

/// A claim may have looked for a pause before it committed, and for work after that.
#[conductor::test]
async fn a_claim_that_has_missed_a_pause_takes_nothing(test: TestConductor) -> anyhow::Result<()> {
    let waits = test.invoke::<PauseQuick>(()).await?;
    let orchestrator = "with task as (select t.id, t.queue_id from conductor.tasks t where t.name = 'pause-quick')
         select conductor.start_orchestrator('here', 1, array[t.queue_id], array[t.id], '1 hour') from task t";
    let orchestrator = number(&test, orchestrator).await;
    for (paused, count) in [(true, 0), (false, 1)] {
        run_sql(
            &test,
            &format!("update conductor.queues set paused = {paused} where name = 'default'"),
        )
        .await?;
        for way in ["claim_gated", "claim_plain"] {
            let claimed = format!(
                "select count(c.id) from conductor.tasks t cross join lateral conductor.{way}(
                        p_orchestrator => {orchestrator}, p_queue => t.queue_id, p_tasks => array[t.id], p_limit => 9,
                        p_paused => false, p_idle => false, p_bytes => 1000, p_seen => null, p_from => null) c
                  where t.name = 'pause-quick'"
            );
            let mut tx = test.pool().begin().await?;
            let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(claimed))
                .fetch_one(&mut *tx)
                .await?;
            tx.rollback().await?;
            assert_eq!(found, count, "{way}");
        }
    }
    assert_eq!(waits.status().await?, Status::Pending);
    Ok(())
}

#[conductor::test]
async fn a_pause_outlives_its_workers_and_a_deploy(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    assert!(test.pause_queue("default").await?);
    let run = test.invoke::<PauseQuick>(()).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Pending);
    assert!(test.resume_queue("default").await?);
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Completed);
    Ok(())
}

#[conductor::test]
async fn queues_are_counted(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(test.queues().await?, []);
    assert!(!test.pause_queue("pause").await?);
    assert!(!test.resume_queue("nul\0").await?);
    test.drain().await?;
    let gate = Gate::new();
    let worker = start_with(&test, 2, Arc::clone(&gate)).await?;
    for _ in 0..3 {
        test.invoke::<PauseGated>(()).await?;
    }
    test.invoke::<PauseQuick>(())
        .delay(Duration::from_secs(60))
        .await?;
    test.invoke::<PauseElsewhere>(()).await?;
    gate.entered(2).await;
    let counts = async |name: &str| {
        let queues = test.queues().await.unwrap();
        let queue = queues.into_iter().find(|queue| queue.name == name).unwrap();
        (queue.waiting, queue.running, queue.parked, queue.workers)
    };
    eventually("the claims", || async {
        counts("default").await == (1, 2, 0, 1)
    })
    .await;
    assert_eq!(counts("pause").await, (1, 0, 0, 0));
    gate.open(3);
    worker.stop().await?;
    Ok(())
}
