//! Cancelling what waits, runs or has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};

use crate::support::{Gate, count, eventually, info, soon, start_with};

/// What the handler does once it is cancelled.
#[derive(Clone, Copy)]
enum Then {
    Returns,
    Errs,
}

#[task(name = "cancel-heeds", priority = 1)]
async fn cancel_heeds(ctx: &TaskContext) -> anyhow::Result<u32> {
    let (gate, then) = ctx.state::<(Arc<Gate>, Then)>();
    assert!(!ctx.cancelled());
    tokio::select! {
        () = gate.pass() => {}
        () = ctx.until_cancelled() => assert!(ctx.cancelled()),
    }
    match then {
        Then::Returns => Ok(1),
        Then::Errs => anyhow::bail!("interrupted"),
    }
}

#[task(name = "cancel-quick")]
async fn cancel_quick(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "cancel-waits")]
async fn cancel_waits(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.until_cancelled().await;
    Ok(())
}

fn reason(result: conductor::Result<impl Sized>) -> Option<String> {
    match result {
        Err(Error::Cancelled { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it completed"),
    }
}

#[conductor::test]
async fn a_pending_one_ends_at_once(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<CancelQuick>(()).await?;
    let delayed = test
        .invoke::<CancelQuick>(())
        .delay(Duration::from_secs(3600))
        .await?;
    assert!(test.cancel(run.id()).reason("no\0pe").await?);
    assert!(test.cancel(delayed.id()).await?);
    assert_eq!(reason(run.result().await), Some("no\u{fffd}pe".into()));
    assert_eq!(reason(delayed.result().await), None);
    test.drain().await?;
    let info = info(&test, run.id()).await?;
    assert_eq!((info.state, info.claim), (Status::Cancelled, 0));
    Ok(())
}

async fn cancels_running(test: TestConductor, then: Then) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 2, (gate.clone(), then)).await?;
    let run = test.invoke::<CancelHeeds>(()).await?;
    gate.entered(1).await;
    let began = Instant::now();
    assert!(test.cancel(run.id()).reason("enough").await?);
    gate.dropped().await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        reason(soon("its end", run.result()).await),
        Some("enough".into())
    );
    assert!(info(&test, run.id()).await?.output.is_none());
    assert!(!test.cancel(run.id()).reason("late").await?);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_running_one_is_cancelled_though_it_returns_a_value(
    test: TestConductor,
) -> anyhow::Result<()> {
    cancels_running(test, Then::Returns).await
}

#[conductor::test]
async fn a_running_one_is_cancelled_though_it_returns_an_error(
    test: TestConductor,
) -> anyhow::Result<()> {
    cancels_running(test, Then::Errs).await
}

#[conductor::test]
async fn the_first_reason_stays(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<CancelQuick>(()).await?;
    // As one that runs, and does not hear.
    sqlx::query("update conductor.live_executions set state = 'running', claim = 1")
        .execute(test.pool())
        .await?;
    assert!(test.cancel(run.id()).reason("first").await?);
    assert!(test.cancel(run.id()).reason("second").await?);
    sqlx::query("select conductor.release(array[$1], array[1])")
        .bind(run.id())
        .execute(test.pool())
        .await?;
    assert_eq!(reason(run.result().await), Some("first".into()));
    Ok(())
}

#[conductor::test]
async fn one_that_is_claimed_and_waits_for_a_slot_ends_without_running(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 1, (gate.clone(), Then::Returns)).await?;
    // Quick ones make the worker claim ahead.
    test.invoke_batch::<CancelQuick>((0..500).map(|_| ()))
        .await?;
    eventually("the quick ones", || async {
        count(&test, "state = 'completed'").await.unwrap() == 500
    })
    .await;
    let mut tx = test.pool().begin().await?;
    test.invoke::<CancelHeeds>(())
        .in_transaction(&mut tx)
        .await?;
    let waiting = test
        .invoke::<CancelQuick>(())
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    gate.entered(1).await;
    assert!(test.cancel(waiting.id()).reason("not now").await?);
    // While the slot is still taken.
    assert_eq!(
        reason(soon("its end", waiting.result()).await),
        Some("not now".into())
    );
    gate.open(1);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_cancel_that_races_the_claim_is_heard(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 500, ()).await?;
    let mut runs = Vec::new();
    for _ in 0..200 {
        let run = test.invoke::<CancelWaits>(()).await?;
        assert!(test.cancel(run.id()).await?);
        runs.push(run);
    }
    let began = Instant::now();
    for run in runs {
        assert_eq!(reason(soon("its end", run.result()).await), None);
    }
    // Less than the heartbeat, which finds those that were not told.
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn what_has_ended_or_never_was_is_not_cancelled(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<CancelQuick>(()).await?;
    test.drain().await?;
    assert!(!test.cancel(run.id()).await?);
    assert!(!test.cancel(uuid::Uuid::now_v7()).await?);
    assert_eq!(run.status().await?, Status::Completed);
    Ok(())
}
