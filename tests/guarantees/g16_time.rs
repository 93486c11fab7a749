//! G16: one clock, the database's; tests move it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Europe::Berlin;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};

use crate::support::{Gate, info, soon, start_with};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[task(name = "g16-quick", keep(completed = "1h", failed = "3h"))]
async fn g16_quick(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(
    name = "g16-fails",
    retry(max_attempts = 3, backoff = "1h..10h", jitter = 0.0),
    keep(failed = "3h")
)]
async fn g16_fails(_ctx: &TaskContext) -> anyhow::Result<()> {
    anyhow::bail!("no")
}

#[task(name = "g16-gated", timeout = "1h", retry(max_attempts = 1))]
async fn g16_gated(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(())
}

async fn now(test: &TestConductor) -> anyhow::Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("select conductor.now()")
        .fetch_one(test.pool())
        .await?)
}

async fn pruned(test: &TestConductor) -> anyhow::Result<i32> {
    Ok(sqlx::query_scalar("select conductor.prune(1000)")
        .fetch_one(test.pool())
        .await?)
}

#[conductor::test]
async fn delay_and_run_at_follow_the_clock(test: TestConductor) -> anyhow::Result<()> {
    let delayed = test.invoke::<G16Quick>(()).delay(HOUR).await?;
    let at = now(&test).await? + 2 * HOUR;
    let dated = test.invoke::<G16Quick>(()).run_at(at).await?;
    let past = now(&test).await? - HOUR;
    let overdue = test.invoke::<G16Quick>(()).run_at(past).await?;

    test.drain().await?;
    assert_eq!(overdue.status().await?, Status::Completed);
    assert_eq!(delayed.status().await?, Status::Pending);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(delayed.status().await?, Status::Completed);
    assert_eq!(dated.status().await?, Status::Pending);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(dated.status().await?, Status::Completed);
    Ok(())
}

#[task(name = "g16-until")]
async fn g16_until(ctx: &TaskContext, local: NaiveDateTime) -> anyhow::Result<()> {
    let at = local.and_local_timezone(Berlin).unwrap();
    Ok(ctx.sleep_until("then", at).await?)
}

#[conductor::test]
async fn times_of_any_zone_mean_their_instant(test: TestConductor) -> anyhow::Result<()> {
    // Nine o'clock on both sides of a change of the clock.
    for (local, instant) in [
        ("2040-03-24T09:00:00", "2040-03-24T08:00:00Z"),
        ("2040-03-26T09:00:00", "2040-03-26T07:00:00Z"),
    ] {
        let local: NaiveDateTime = local.parse()?;
        let instant: DateTime<Utc> = instant.parse()?;
        let berlin = local.and_local_timezone(Berlin).unwrap();
        let by_zone = test.invoke::<G16Quick>(()).run_at(berlin).await?;
        let fixed = test.invoke::<G16Quick>(()).run_at(berlin.fixed_offset());
        let system = test
            .invoke::<G16Quick>(())
            .run_at(SystemTime::from(instant));
        for run in [by_zone, fixed.await?, system.await?] {
            assert_eq!(info(&test, run.id()).await?.run_at, Some(instant));
        }
        let sleeper = test.invoke::<G16Until>(G16Until { local }).await?;
        test.drain().await?;
        assert_eq!(info(&test, sleeper.id()).await?.run_at, Some(instant));
    }
    Ok(())
}

#[conductor::test]
async fn a_running_worker_follows_the_clock_too(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 1, ()).await?;
    let run = test.invoke::<G16Quick>(()).delay(HOUR).await?;
    test.advance(HOUR).await?;
    soon("the result", run.result()).await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn backoff_follows_the_clock(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G16Fails>(()).await?;
    for (failures, wait) in [(1, HOUR), (2, 2 * HOUR)] {
        test.drain().await?;
        test.advance(wait - 5 * MINUTE).await?;
        test.drain().await?;
        assert_eq!(info(&test, run.id()).await?.failures, failures);
        test.advance(5 * MINUTE).await?;
    }
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Failed);
    Ok(())
}

#[conductor::test]
async fn a_timeout_follows_the_clock(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<G16Gated>(()).await?;
    gate.entered(1).await;
    test.advance(HOUR + MINUTE).await?;
    let failed = soon("the timeout", run.result()).await.unwrap_err();
    assert!(matches!(&failed, Error::Failed { error, .. } if error == "timed out after 1h"));
    gate.dropped().await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_timeout_counts_from_the_start_however_the_clock_stood(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.advance(100 * HOUR).await?;
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<G16Gated>(()).await?;
    gate.entered(1).await;
    test.advance(MINUTE).await?;
    // The worker hears of the clock before this, on the same channel.
    let after = test.invoke::<G16Quick>(()).await?;
    gate.open(1);
    soon("the next one", after.result()).await?;
    assert_eq!(run.status().await?, Status::Completed);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn retention_follows_the_clock(test: TestConductor) -> anyhow::Result<()> {
    let completed = test.invoke::<G16Quick>(()).await?;
    let cancelled = test.invoke::<G16Quick>(()).delay(HOUR).await?;
    test.cancel(cancelled.id()).await?;
    test.drain().await?;
    test.advance(50 * MINUTE).await?;
    assert_eq!(pruned(&test).await?, 0);
    test.advance(10 * MINUTE).await?;
    assert_eq!(pruned(&test).await?, 1);
    assert!(matches!(completed.status().await, Err(Error::NotFound(_))));
    test.advance(2 * HOUR).await?;
    assert_eq!(pruned(&test).await?, 1);
    assert!(test.find(cancelled.id()).await?.is_none());
    Ok(())
}

#[conductor::test]
async fn pruning_takes_the_failures_along(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G16Fails>(()).await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(2 * HOUR).await?;
    }
    assert_eq!(test.failures(run.id()).await?.len(), 3);
    assert_eq!(pruned(&test).await?, 0);
    test.advance(HOUR).await?;
    assert_eq!(pruned(&test).await?, 1);
    assert!(test.failures(run.id()).await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_worker_that_sleeps_is_there_when_something_is_due(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start_with(&test, 5, ()).await?;
    let mut late = Vec::new();
    for delay in [150, 700, 1250, 2100] {
        let delay = Duration::from_millis(delay);
        let run = test.invoke::<G16Quick>(()).delay(delay).await?;
        let due = info(&test, run.id()).await?.run_at.unwrap();
        soon("the result", run.result()).await?;
        let claimed = info(&test, run.id()).await?.claimed_at.unwrap();
        assert!(claimed >= due);
        late.push((claimed - due).num_milliseconds());
    }
    late.sort_unstable();
    assert!(late[1] < 500, "{late:?}");
    worker.stop().await?;
    Ok(())
}
