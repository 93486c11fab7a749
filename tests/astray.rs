//! An execution whose keys change at each run is told about, and ends (G20): it would go on for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

use sqlx::Connection;

use crate::support::{eventually, info, number, run_sql, session};

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

/// Parents are locked before children, everywhere: who cancels a parent locks it and then the child.
#[conductor::test]
async fn one_that_ends_locks_its_parent_before_itself(test: TestConductor) -> anyhow::Result<()> {
    let parent = test.invoke::<Child>(()).await?.id();
    let child = test.invoke::<Child>(()).await?.id();
    let running = format!(
        "update conductor.live_executions
            set parent_id = '{parent}', parent_key = 'child', state = 'running', claim = 1, met = 0, astray = 49
          where id = '{child}'"
    );
    run_sql(&test, &running).await?;
    let lock = |id, rest| {
        format!("select id from conductor.live_executions where id = '{id}' for update{rest}")
    };
    let (mut canceller, mut worker) = (session(&test).await?, session(&test).await?);
    let mut tx = canceller.begin().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock(parent, "")))
        .execute(&mut *tx)
        .await?;
    let suspend = format!(
        "select conductor.suspend(
             array['{child}'::uuid], array[1], array['{child}'::uuid], array['nap 50'], array['sleep'], array['nap 50'],
             array[1000], null, null, null, null, null, null, null, p_met => array[0], p_astray => array['nap 49'])"
    );
    let ends = tokio::spawn(async move {
        sqlx::raw_sql(sqlx::AssertSqlSafe(suspend))
            .execute(&mut worker)
            .await
    });
    let waits = "select count(*) from pg_stat_activity
                  where datname = current_database() and wait_event_type = 'Lock'";
    eventually("it waits", || async { number(&test, waits).await == 1 }).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock(child, " nowait")))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    ends.await??;
    assert_eq!(info(&test, child).await?.state, Status::Failed);
    Ok(())
}
