//! Somebody's transaction has an execution's row and does not end: that concerns this execution alone.

use std::sync::Arc;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Handle, Status};
use sqlx::{Postgres, Transaction};

use crate::support::{Gate, info, number, soon, start_with};

#[task(name = "faults-locked-outcome")]
async fn faults_locked_outcome(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(n)
}

#[task(name = "faults-locked-step")]
async fn faults_locked_step(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    ctx.step("one", || async { anyhow::Ok(n) }).await
}

#[task(name = "faults-locked-child")]
async fn faults_locked_child(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(n)
}

#[task(name = "faults-locked-parent")]
async fn faults_locked_parent(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    ctx.invoke::<FaultsLockedChild>("child", FaultsLockedChild { n })
        .await
        .map_err(Into::into)
}

const CANCEL: &str = "select conductor.cancel($1)::text";
const QUEUES: &str =
    "select count(*)::text from (select from conductor.queues where $1 is not null for update) q";

/// A worker with two executions that have just passed the gate, and the transaction of a person who has done
/// this to the first of them.
async fn held<T: Task<Output = u32>>(
    test: &TestConductor,
    payload: impl Fn(u32) -> T::Payload,
    done: &'static str,
) -> anyhow::Result<(Handle, Vec<Execution<T>>, Transaction<'static, Postgres>)> {
    let gate = Gate::new();
    let worker = start_with(test, 10, Arc::clone(&gate)).await?;
    let mut runs = Vec::new();
    for n in 1..=2 {
        runs.push(test.invoke::<T>(payload(n)).await?);
        gate.entered(1).await;
    }
    let mut person = test.pool().begin().await?;
    sqlx::query(done)
        .bind(runs[0].id())
        .execute(&mut *person)
        .await?;
    // For others too.
    gate.open(3);
    Ok((worker, runs, person))
}

#[conductor::test]
async fn outcomes_of_others_are_written(test: TestConductor) -> anyhow::Result<()> {
    let payload = |n| FaultsLockedOutcome { n };
    let (worker, runs, person) = held::<FaultsLockedOutcome>(&test, payload, CANCEL).await?;
    assert_eq!(soon("the other's result", runs[1].result()).await?, 2);
    // New ones are claimed, run and written too.
    let third = test.invoke::<FaultsLockedStep>(FaultsLockedStep { n: 3 });
    assert_eq!(soon("a new one's result", third.await?.result()).await?, 3);
    let state = info(&test, runs[0].id()).await?.state;
    assert_eq!(state, Status::Running);
    person.rollback().await?;
    assert_eq!(soon("its own result", runs[0].result()).await?, 1);
    // What it had done was kept, and not done again.
    assert_eq!(info(&test, runs[0].id()).await?.claim, 1);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn steps_of_others_are_recorded(test: TestConductor) -> anyhow::Result<()> {
    let payload = |n| FaultsLockedStep { n };
    let (worker, runs, person) = held::<FaultsLockedStep>(&test, payload, CANCEL).await?;
    assert_eq!(soon("the other's result", runs[1].result()).await?, 2);
    person.commit().await?;
    let ended = soon("its own end", runs[0].result()).await;
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_locked_parent_keeps_only_its_own_children_waiting(
    test: TestConductor,
) -> anyhow::Result<()> {
    let payload = |n| FaultsLockedParent { n };
    let (worker, runs, person) = held::<FaultsLockedParent>(&test, payload, CANCEL).await?;
    assert_eq!(soon("the other's result", runs[1].result()).await?, 2);
    person.rollback().await?;
    assert_eq!(soon("its own result", runs[0].result()).await?, 1);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn what_has_ended_is_written_at_the_end_of_its_process(
    test: TestConductor,
) -> anyhow::Result<()> {
    let payload = |n| FaultsLockedOutcome { n };
    let (worker, runs, person) = held::<FaultsLockedOutcome>(&test, payload, CANCEL).await?;
    assert_eq!(soon("the other's result", runs[1].result()).await?, 2);
    let (stopped, ended) = tokio::join!(soon("the worker's end", worker.stop()), async {
        // The worker gives up its lease last.
        let draining = "select count(*) from conductor.orchestrators";
        assert_eq!(number(&test, draining).await, 1);
        person.rollback().await
    });
    stopped?;
    ended?;
    let info = info(&test, runs[0].id()).await?;
    assert_eq!((info.state, info.claim), (Status::Completed, 1));
    Ok(())
}

#[conductor::test]
async fn a_lock_that_only_claims_meet_keeps_no_outcome_waiting(
    test: TestConductor,
) -> anyhow::Result<()> {
    let payload = |n| FaultsLockedOutcome { n };
    let (worker, runs, person) = held::<FaultsLockedOutcome>(&test, payload, QUEUES).await?;
    for (run, n) in runs.iter().zip(1..) {
        assert_eq!(soon("a result", run.result()).await?, n);
    }
    person.rollback().await?;
    worker.stop().await?;
    Ok(())
}
