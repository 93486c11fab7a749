//! An execution whose keys change at each run is told about, and ends (G20): it would go on for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::info;

const HOUR: Duration = Duration::from_secs(3600);

type Runs = Arc<AtomicUsize>;

#[task(name = "astray.child")]
async fn child(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "astray.parent", retry(max_attempts = 3))]
async fn parent(ctx: &TaskContext, way: String) -> anyhow::Result<()> {
    let run = ctx.state::<Runs>().fetch_add(1, SeqCst);
    ctx.sleep("first", HOUR).await?;
    ctx.step("stays", async || anyhow::Ok(())).await?;
    match way.as_str() {
        "sleep" => ctx.sleep(format!("nap {run}"), HOUR).await?,
        "child" => ctx.invoke::<Child>(format!("child {run}"), ()).await?,
        _ => {
            for n in 0..60 {
                ctx.sleep(format!("nap {n}"), HOUR).await?;
            }
        }
    }
    Ok(())
}

/// Runs one of these until it fails, and gives how the story told of it before.
async fn fails(test: TestConductor, way: &str, key: &str) -> anyhow::Result<()> {
    let runs = Runs::default();
    let test = test.state(Arc::clone(&runs));
    let payload = Parent {
        way: way.to_owned(),
    };
    let run = test.invoke::<Parent>(payload).await?;
    let mut told = None;
    for _ in 0..60 {
        test.drain().await?;
        test.advance(HOUR).await?;
        let story = test.story(run.id()).await?;
        told = told.or(story.and_then(|story| story.astray));
    }
    let error = run.result().await.unwrap_err().to_string();
    for part in [
        "its keys change at each run",
        key,
        "50 runs in a row",
        "HashMap",
    ] {
        assert!(error.contains(part), "{error}");
    }
    // The first three met more than the one before: nothing, the sleep, the step.
    assert_eq!(runs.load(SeqCst), 53);
    assert_eq!(info(&test, run.id()).await?.state, Status::Failed);
    // All runs with children are over within one drain.
    if way == "sleep" {
        let told = told.expect("the story tells before it fails");
        assert!(told.key.starts_with(key), "{told:?}");
    }
    Ok(())
}

#[conductor::test]
async fn a_sleep_whose_key_changes_at_each_run_ends_in_an_error(
    test: TestConductor,
) -> anyhow::Result<()> {
    fails(test, "sleep", "nap ").await
}

#[conductor::test]
async fn a_child_whose_key_changes_at_each_run_ends_in_an_error(
    test: TestConductor,
) -> anyhow::Result<()> {
    fails(test, "child", "child ").await
}

#[conductor::test]
async fn one_that_makes_progress_does_not(test: TestConductor) -> anyhow::Result<()> {
    let test = test.state(Runs::default());
    let way = "loop".to_owned();
    let run = test.invoke::<Parent>(Parent { way }).await?;
    for _ in 0..62 {
        test.drain().await?;
        assert!(
            test.story(run.id())
                .await?
                .is_some_and(|story| story.astray.is_none())
        );
        test.advance(HOUR).await?;
    }
    run.result().await?;
    Ok(())
}

#[task(
    name = "astray.cools-down",
    retry(max_attempts = 60, backoff = "1ms..1ms")
)]
async fn cools_down(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.sleep(format!("cool down {}", ctx.attempt()), HOUR)
        .await?;
    anyhow::ensure!(ctx.attempt() == 60, "not yet");
    Ok(ctx.attempt())
}

#[conductor::test]
async fn keys_that_have_the_attempt_in_them_are_no_fault(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<CoolsDown>(()).await?;
    for _ in 0..61 {
        test.drain().await?;
        test.advance(HOUR).await?;
    }
    assert_eq!(run.result().await?, 60);
    Ok(())
}
