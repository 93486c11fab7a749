//! G6: a key used twice, or with another kind on replay, is a permanent error that names it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

/// Runs to the end and gives the error of one that must fail at its first failure.
async fn refused<T: Task>(test: &TestConductor, run: &Execution<T>) -> anyhow::Result<String> {
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Failed);
    let info = test.find(run.id()).await?.unwrap();
    assert_eq!(info.failures, 1, "it is permanent");
    Ok(info.error.unwrap())
}

#[task(name = "g6.key")]
async fn g6_key(ctx: &TaskContext, key: String) -> anyhow::Result<()> {
    // Whatever the handler makes of the error.
    let _ = ctx.step(key, || async { anyhow::Ok(()) }).await;
    Ok(())
}

#[conductor::test]
async fn what_cannot_be_a_key_is_permanent(test: TestConductor) -> anyhow::Result<()> {
    let long = "x".repeat(501);
    for (key, word) in [("", "empty"), ("a\tb", "control"), (&long, "501 bytes")] {
        let run = test.invoke::<G6Key>(G6Key { key: key.into() }).await?;
        let error = refused(&test, &run).await?;
        assert!(error.contains(word) && error.contains("key"), "{error}");
    }
    let run = test
        .invoke::<G6Key>(G6Key {
            key: "x".repeat(500),
        })
        .await?;
    test.drain().await?;
    run.result().await?;
    Ok(())
}

#[task(name = "g6.nul")]
async fn g6_nul(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.step("a\0b", || async { anyhow::Ok(()) }).await
}

#[conductor::test]
async fn a_key_with_nul_is_permanent(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G6Nul>(()).await?;
    assert!(refused(&test, &run).await?.contains("control character"));
    Ok(())
}

#[task(name = "g6.twice")]
async fn g6_twice(ctx: &TaskContext, swallow: bool) -> anyhow::Result<i32> {
    let first = ctx.step("charge", || async { anyhow::Ok(1) }).await?;
    let second = ctx.step("charge", || async { anyhow::Ok(2) }).await;
    if swallow { Ok(first) } else { second }
}

#[conductor::test]
async fn a_key_used_twice_is_permanent(test: TestConductor) -> anyhow::Result<()> {
    for swallow in [false, true] {
        let run = test.invoke::<G6Twice>(G6Twice { swallow }).await?;
        let error = refused(&test, &run).await?;
        assert!(
            error.contains("\"charge\"") && error.contains("used twice"),
            "{error}"
        );
    }
    Ok(())
}

static RUNS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g6.changed", retry(max_attempts = 9, backoff = "1s..1s"))]
async fn g6_changed(ctx: &TaskContext) -> anyhow::Result<()> {
    if RUNS.fetch_add(1, SeqCst) == 0 {
        ctx.step("it", || async { anyhow::Ok(()) }).await?;
        ctx.sleep("pause", Duration::from_secs(60)).await?;
    } else {
        let _ = ctx.sleep("it", Duration::from_secs(60)).await;
    }
    Ok(())
}

#[conductor::test]
async fn another_kind_on_replay_is_permanent(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G6Changed>(()).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(60)).await?;
    let error = refused(&test, &run).await?;
    assert!(
        error.contains("\"it\"") && error.contains("step") && error.contains("sleep"),
        "{error}"
    );
    Ok(())
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g6.dropped")]
async fn g6_dropped(ctx: &TaskContext) -> anyhow::Result<()> {
    if DROPPED.fetch_add(1, SeqCst) == 0 {
        ctx.step("old", || async { anyhow::Ok(()) }).await?;
    }
    ctx.sleep("pause", Duration::from_secs(60)).await?;
    Ok(())
}

#[conductor::test]
async fn a_step_that_new_code_does_not_reach_is_no_error(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G6Dropped>(()).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(60)).await?;
    test.drain().await?;
    run.result().await?;
    Ok(())
}
