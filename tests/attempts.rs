//! Attempts that fail: when the next one comes, and what is kept of them.

use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};

use crate::support::{info, soon, start_with};

#[task(
    name = "attempts-backs-off",
    retry(max_attempts = 100, backoff = "10s..1h", jitter = 0.2)
)]
async fn attempts_backs_off(_ctx: &TaskContext) -> anyhow::Result<()> {
    anyhow::bail!("again")
}

#[task(name = "attempts-fails", retry(max_attempts = 3, backoff = "1h..1h"))]
async fn attempts_fails(ctx: &TaskContext, succeed_at: u32) -> anyhow::Result<u32> {
    if ctx.attempt() < succeed_at {
        return Err(anyhow!("cause").context(format!("attempt {}", ctx.attempt())));
    }
    Ok(ctx.attempt())
}

#[task(name = "attempts-judges", retry(max_attempts = 2, backoff = "1h..1h"))]
async fn attempts_judges(_ctx: &TaskContext, after_ms: Option<u64>) -> anyhow::Result<()> {
    let failed: anyhow::Result<()> = Err(anyhow!("cause"));
    match after_ms {
        None => failed.permanent().context("outer"),
        Some(after) => failed
            .retry_after(Duration::from_millis(after))
            .context("outer"),
    }
}

#[task(name = "attempts-panics", retry(max_attempts = 1))]
async fn attempts_panics(_ctx: &TaskContext, text: Option<String>) -> anyhow::Result<()> {
    match text {
        Some(text) => panic!("{text}"),
        None => std::panic::panic_any(7),
    }
}

/// Where that line is.
const PANICS_AT: u32 = line!() - 6;

struct NobodyGaveIt;

#[task(name = "attempts-lacks", retry(max_attempts = 5))]
async fn attempts_lacks(ctx: &TaskContext, in_step: bool) -> anyhow::Result<()> {
    if in_step {
        let body = || async {
            ctx.state::<NobodyGaveIt>();
            anyhow::Ok(())
        };
        return ctx.step("asks", body).await;
    }
    let _ = ctx.state::<NobodyGaveIt>();
    Ok(())
}

#[task(name = "attempts-lacks-together", batch, retry(max_attempts = 5))]
async fn attempts_lacks_together(ctx: &BatchContext, items: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let _ = ctx.state::<NobodyGaveIt>();
    Ok(items)
}

/// It takes the value by what the code of `#[task]` takes `State<T>` arguments with.
#[task(name = "attempts-lacks-argument", retry(max_attempts = 5))]
async fn attempts_lacks_argument(ctx: &TaskContext) -> anyhow::Result<()> {
    let _: State<NobodyGaveIt> = ctx.argument().context("for the mail")?;
    Ok(())
}

#[task(name = "attempts-hangs", timeout = "30ms", retry(max_attempts = 1))]
async fn attempts_hangs(_ctx: &TaskContext) -> anyhow::Result<()> {
    std::future::pending().await
}

#[task(name = "attempts-says", retry(max_attempts = 1))]
async fn attempts_says(_ctx: &TaskContext, letters: u32) -> anyhow::Result<()> {
    Err(anyhow!("a\0b{}", "é".repeat(letters as usize)))
}

#[derive(Debug)]
struct Poor;

impl std::fmt::Display for Poor {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("no words")
    }
}

impl std::error::Error for Poor {}

#[task(name = "attempts-poor", retry(max_attempts = 1))]
async fn attempts_poor(_ctx: &TaskContext) -> Result<(), Poor> {
    Err(Poor)
}

async fn now(test: &TestConductor) -> anyhow::Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("select conductor.now()")
        .fetch_one(test.pool())
        .await?)
}

/// When the next attempt is due, after the one that the drain ran.
async fn delay_of_next<T: Task>(
    test: &TestConductor,
    run: &Execution<T>,
) -> anyhow::Result<(f64, f64)> {
    let before = now(test).await?;
    test.drain().await?;
    let after = now(test).await?;
    let run_at = info(test, run.id()).await?.run_at.unwrap();
    let seconds = |from: DateTime<Utc>| (run_at - from).num_milliseconds() as f64 / 1e3;
    Ok((seconds(after), seconds(before)))
}

async fn failure<T: Task>(test: &TestConductor, run: &Execution<T>) -> anyhow::Result<String> {
    match run.result().await {
        Err(Error::Failed { error, id, .. }) => {
            assert_eq!(id, run.id());
            let failures = test.failures(id).await?;
            assert_eq!(failures.last().unwrap().error, error);
            Ok(error)
        }
        Err(other) => Err(other.into()),
        Ok(_) => panic!("it completed"),
    }
}

#[conductor::test]
async fn the_backoff_doubles_within_its_jitter_and_limit(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<AttemptsBacksOff>(()).await?;
    for wanted in [
        10., 20., 40., 80., 160., 320., 640., 1280., 2560., 3600., 3600.,
    ] {
        let (least, most) = delay_of_next(&test, &run).await?;
        assert!(least <= wanted * 1.2 + 0.01, "{least} for {wanted}");
        assert!(most >= wanted * 0.8 - 0.01, "{most} for {wanted}");
        test.advance(Duration::from_secs(3600 * 2)).await?;
    }
    assert_eq!(info(&test, run.id()).await?.failures, 11);
    Ok(())
}

#[conductor::test]
async fn the_jitter_spreads(test: TestConductor) -> anyhow::Result<()> {
    let ids = test
        .invoke_batch::<AttemptsBacksOff>((0..50).map(|_| ()))
        .await?;
    sqlx::query("update conductor.live_executions set failures = 20")
        .execute(test.pool())
        .await?;
    test.drain().await?;
    let mut due = Vec::new();
    for id in ids {
        due.push(info(&test, id).await?.run_at.unwrap());
    }
    let spread = *due.iter().max().unwrap() - *due.iter().min().unwrap();
    assert!(spread.num_seconds() > 300, "{spread}");
    Ok(())
}

#[conductor::test]
async fn the_last_of_a_hundred_failures_is_still_written(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<AttemptsBacksOff>(()).await?;
    for failures in [40, 70, 98] {
        sqlx::query("update conductor.live_executions set failures = $1, run_at = conductor.now()")
            .bind(failures)
            .execute(test.pool())
            .await?;
        let (least, most) = delay_of_next(&test, &run).await?;
        assert!(least <= 4321. && most >= 2879., "{least} {most}");
    }
    test.advance(Duration::from_secs(2 * 3600)).await?;
    test.drain().await?;
    assert_eq!(failure(&test, &run).await?, "again");
    assert_eq!(info(&test, run.id()).await?.failures, 100);
    Ok(())
}

#[conductor::test]
async fn attempts_are_counted_and_their_errors_kept(test: TestConductor) -> anyhow::Result<()> {
    let succeeds = test
        .invoke::<AttemptsFails>(AttemptsFails { succeed_at: 3 })
        .await?;
    let fails = test
        .invoke::<AttemptsFails>(AttemptsFails { succeed_at: 4 })
        .await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(Duration::from_secs(2 * 3600)).await?;
    }
    assert_eq!(succeeds.result().await?, 3);
    assert_eq!(failure(&test, &fails).await?, "attempt 3: cause");
    let failures = test.failures(fails.id()).await?;
    let texts: Vec<_> = failures
        .iter()
        .map(|failure| (failure.attempt, failure.error.as_str()))
        .collect();
    assert_eq!(
        texts,
        [
            (1, "attempt 1: cause"),
            (2, "attempt 2: cause"),
            (3, "attempt 3: cause")
        ]
    );
    assert!(failures.is_sorted_by(|a, b| a.failed_at < b.failed_at));
    assert_eq!(test.failures(succeeds.id()).await?.len(), 2);
    Ok(())
}

#[conductor::test]
async fn a_permanent_error_is_the_last(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<AttemptsJudges>(AttemptsJudges { after_ms: None })
        .await?;
    test.drain().await?;
    assert_eq!(failure(&test, &run).await?, "outer: cause");
    assert_eq!(info(&test, run.id()).await?.failures, 1);
    Ok(())
}

#[conductor::test]
async fn an_error_may_say_when_the_next_attempt_comes(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<AttemptsJudges>(AttemptsJudges {
            after_ms: Some(600_000),
        })
        .await?;
    let (least, most) = delay_of_next(&test, &run).await?;
    assert!(least <= 600.01 && most >= 599.99, "{least} {most}");
    test.advance(Duration::from_secs(601)).await?;
    test.drain().await?;
    // It counts as an attempt.
    assert_eq!(failure(&test, &run).await?, "outer: cause");
    assert_eq!(info(&test, run.id()).await?.failures, 2);
    Ok(())
}

#[conductor::test]
async fn a_delay_beyond_all_calendars_is_stored(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<AttemptsJudges>(AttemptsJudges {
            after_ms: Some(u64::MAX),
        })
        .await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Pending);
    Ok(())
}

#[conductor::test]
async fn a_panic_fails_its_attempt_and_keeps_its_text_and_its_place(
    test: TestConductor,
) -> anyhow::Result<()> {
    let said = test
        .invoke::<AttemptsPanics>(AttemptsPanics {
            text: Some("out of cheese".into()),
        })
        .await?;
    let mute = test
        .invoke::<AttemptsPanics>(AttemptsPanics { text: None })
        .await?;
    let poor = test.invoke::<AttemptsPoor>(()).await?;
    test.drain().await?;
    let place = format!("panicked at {}", file!());
    assert_eq!(
        failure(&test, &said).await?,
        format!("{place}:{PANICS_AT}:23: out of cheese")
    );
    assert_eq!(
        failure(&test, &mute).await?,
        format!("{place}:{}:17", PANICS_AT + 1)
    );
    let poor = failure(&test, &poor).await?;
    assert!(poor.starts_with(&place), "{poor}");
    assert!(poor.ends_with(": no words"), "{poor}");
    Ok(())
}

#[conductor::test]
async fn a_missing_state_fails_the_execution_for_good(test: TestConductor) -> anyhow::Result<()> {
    let lacks = |in_step| test.invoke::<AttemptsLacks>(AttemptsLacks { in_step });
    let plain = lacks(false).await?;
    let in_step = lacks(true).await?;
    let together = test.invoke::<AttemptsLacksTogether>(1).await?;
    let argument = test.invoke::<AttemptsLacksArgument>(()).await?;
    test.drain().await?;
    for id in [plain.id(), in_step.id(), together.id(), argument.id()] {
        let info = info(&test, id).await?;
        assert_eq!((info.state, info.failures), (Status::Failed, 1));
    }
    let texts = [
        failure(&test, &plain).await?,
        failure(&test, &in_step).await?,
        failure(&test, &together).await?,
        failure(&test, &argument).await?,
    ];
    for text in &texts {
        let words = "no state of type suite::attempts::NobodyGaveIt: add `.state(suite::attempts::NobodyGaveIt …)` \
                     to the orchestrator";
        assert!(text.ends_with(words), "{text}");
    }
    for text in &texts[..3] {
        let place = format!("panicked at {}:", file!());
        assert!(text.starts_with(&place), "{text}");
    }
    Ok(())
}

#[conductor::test]
async fn a_timeout_keeps_its_text(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<AttemptsHangs>(()).await?;
    test.drain().await?;
    assert_eq!(failure(&test, &run).await?, "timed out after 30ms");
    Ok(())
}

#[conductor::test]
async fn odd_and_endless_error_texts_are_stored(test: TestConductor) -> anyhow::Result<()> {
    let odd = test
        .invoke::<AttemptsSays>(AttemptsSays { letters: 1 })
        .await?;
    let endless = test
        .invoke::<AttemptsSays>(AttemptsSays { letters: 500_000 })
        .await?;
    test.drain().await?;
    assert_eq!(failure(&test, &odd).await?, "a\u{fffd}bé");
    let text = failure(&test, &endless).await?;
    assert!(text.starts_with("a\u{fffd}béé") && text.ends_with("é … (cut)"));
    assert!(text.len() < 20_000, "{}", text.len());
    Ok(())
}

#[conductor::test]
async fn retry_makes_one_in_backoff_due_now(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<AttemptsFails>(AttemptsFails { succeed_at: 2 })
        .await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Pending);
    assert_eq!(test.retry(run.id()).await?, Some(run.id()));
    test.drain().await?;
    assert_eq!(run.result().await?, 2);
    assert_eq!(test.retry(run.id()).await?, None);
    assert_eq!(test.retry(uuid::Uuid::now_v7()).await?, None);
    Ok(())
}

#[conductor::test]
async fn retry_repeats_a_failed_one_under_a_new_id(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<AttemptsSays>(AttemptsSays { letters: 3 })
        .await?;
    test.drain().await?;
    let before = info(&test, run.id()).await?;
    let worker = start_with(&test, 1, ()).await?;
    let again = test.retry(run.id()).await?.unwrap();
    assert_ne!(again, run.id());
    let again = test.execution::<AttemptsSays>(again);
    assert!(soon("its end", again.result()).await.is_err());
    worker.stop().await?;
    let info_again = info(&test, again.id()).await?;
    assert_eq!(info_again.retry_of, Some(run.id()));
    assert_eq!(info_again.payload.get(), before.payload.get());
    assert_eq!(info_again.failures, 1);
    let after = info(&test, run.id()).await?;
    assert_eq!((after.state, after.error), (before.state, before.error));
    Ok(())
}
