//! What a worker takes of the work, and what it leaves to others, while its handlers are slow or stuck.

use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Reason};
use uuid::Uuid;

use crate::support::{Gate, count, eventually, number, soon, start_with};

#[task(name = "shares-plain")]
async fn shares_plain(ctx: &TaskContext, gated: bool) -> anyhow::Result<()> {
    if gated {
        ctx.state::<Arc<Gate>>().pass().await;
    }
    Ok(())
}

#[task(name = "shares-limited", concurrency = 5)]
async fn shares_limited(ctx: &TaskContext, gated: bool) -> anyhow::Result<()> {
    if gated {
        ctx.state::<Arc<Gate>>().pass().await;
    }
    Ok(())
}

const RUNNING: &str = "select count(*) from conductor.live_executions where state = 'running'";

/// A worker that knows its handlers as quick ones, so that it claims many ahead.
async fn quick_worker(
    test: &TestConductor,
    concurrency: usize,
    gate: &Arc<Gate>,
) -> anyhow::Result<Handle> {
    let worker = start_with(test, concurrency, Arc::clone(gate)).await?;
    plain(test, 300, false).await?;
    limited(test, 300, false).await?;
    soon("what is quick", worker.drained()).await?;
    Ok(worker)
}

async fn plain(test: &TestConductor, many: usize, gated: bool) -> anyhow::Result<Vec<Uuid>> {
    let items = (0..many).map(|_| SharesPlain { gated });
    Ok(test.invoke_batch::<SharesPlain>(items).await?)
}

async fn limited(test: &TestConductor, many: usize, gated: bool) -> anyhow::Result<Vec<Uuid>> {
    let items = (0..many).map(|_| SharesLimited { gated });
    Ok(test.invoke_batch::<SharesLimited>(items).await?)
}

#[conductor::test]
async fn a_worker_whose_handlers_have_become_slow_keeps_what_it_can_run(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = quick_worker(&test, 2, &gate).await?;
    plain(&test, 400, true).await?;
    gate.entered(2).await;
    let ahead = number(&test, RUNNING).await;
    assert!(ahead > 60, "only {ahead} were claimed ahead");
    // They go on, one each 100 ms.
    eventually("what waits to be given back", || async {
        gate.open(1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        number(&test, RUNNING).await <= 2
    })
    .await;
    let ended = count(&test, "state = 'completed'").await? - 600;
    assert!(ended < 50, "{ended} of {ahead} had ended");
    gate.open(400);
    soon("the rest", worker.drained()).await?;
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    worker.stop().await?;
    Ok(())
}

/// Claimed ahead, they would seem to run.
#[conductor::test]
async fn behind_stuck_slots_others_wait_for_the_limit_and_say_so(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = quick_worker(&test, 10, &gate).await?;
    let stuck = limited(&test, 60, true).await?;
    gate.entered(5).await;
    let claimed = "select count(*) from conductor.live_executions l join conductor.tasks t on t.id = l.task_id
                    where t.name = 'shares-limited' and l.state = 'running'";
    let ahead = number(&test, claimed).await;
    assert!(ahead > 10, "only {ahead} were claimed ahead");
    // Others of the queue go on meanwhile.
    eventually("what waits to be given back", || async {
        let quick = plain(&test, 1, false).await.unwrap();
        soon("a quick one", test.outcome(quick[0])).await.unwrap();
        number(&test, claimed).await == 5
    })
    .await;
    let last = *stuck.last().unwrap();
    eventually("the reason", || async {
        let why = test.why(last).await.unwrap();
        matches!(why.reason, Reason::Limit { amount: 5, held: 5, ref executions, .. } if executions.len() == 5)
    })
    .await;
    gate.open(60);
    soon("the rest", worker.drained()).await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn slots_that_one_process_cannot_use_are_used_by_others(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (stuck, free) = (Gate::new(), Gate::new());
    // Two handlers at once: it has two of the five slots.
    let first = start_with(&test, 2, Arc::clone(&stuck)).await?;
    limited(&test, 2, true).await?;
    stuck.entered(2).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(start_with(&test, 2, Arc::clone(&free)).await?);
    }
    limited(&test, 40, true).await?;
    // Five of the task at once, in four processes.
    free.entered(3).await;
    for _ in 0..37 {
        assert_eq!(free.unseen(), 0);
        free.open(1);
        free.entered(1).await;
    }
    free.open(3);
    eventually("all but the stuck", || async {
        count(&test, "state = 'completed'").await.unwrap() == 40
    })
    .await;
    assert_eq!(stuck.unseen(), 0);
    stuck.open(2);
    soon("the stuck", first.drained()).await?;
    for worker in others.into_iter().chain([first]) {
        worker.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn slots_held_ahead_by_a_process_that_is_stuck_go_to_others(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (stuck, free) = (Gate::new(), Gate::new());
    let first = quick_worker(&test, 4, &stuck).await?;
    // All its handlers are with others, which stand before the limited ones.
    plain(&test, 4, true).await?;
    stuck.entered(4).await;
    let limited = limited(&test, 30, false).await?;
    let second = start_with(&test, 2, free).await?;
    for id in limited {
        soon("its end in the other process", test.outcome(id)).await?;
    }
    stuck.open(4);
    for worker in [first, second] {
        soon("the end of all", worker.drained()).await?;
        worker.stop().await?;
    }
    Ok(())
}
