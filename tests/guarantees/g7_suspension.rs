//! G7: suspension frees the slot, never cuts a running step short, and is no failure.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use tokio::sync::Notify;
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[task(name = "g7.sleeper", queue = "g7-narrow")]
async fn g7_sleeper(ctx: &TaskContext, millis: u64) -> anyhow::Result<u32> {
    ctx.sleep("nap", Duration::from_millis(millis)).await?;
    Ok(ctx.attempt())
}

#[task(name = "g7.quick", queue = "g7-narrow")]
async fn g7_quick(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[conductor::test]
async fn a_sleep_frees_the_slot(test: TestConductor) -> anyhow::Result<()> {
    let narrow = Worker::queue("g7-narrow").concurrency(1);
    let worker = test
        .orchestrator()
        .only_workers([narrow])
        .build()?
        .start()
        .await?;
    let asleep = test
        .invoke::<G7Sleeper>(G7Sleeper { millis: 86_400_000 })
        .await?;
    crate::support::eventually("asleep", || async {
        asleep
            .status()
            .await
            .is_ok_and(|status| status == Status::Suspended)
    })
    .await;
    test.invoke::<G7Quick>(()).await?.result().await?;
    assert_eq!(asleep.status().await?, Status::Suspended);
    test.advance(DAY).await?;
    assert_eq!(asleep.result().await?, 1);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_short_sleep_ends_by_itself(test: TestConductor) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    for millis in [0, 30, 300] {
        let run = test.invoke::<G7Sleeper>(G7Sleeper { millis }).await?;
        assert_eq!(run.result().await?, 1);
    }
    worker.stop().await?;
    Ok(())
}

static STEPS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g7.joined")]
async fn g7_joined(ctx: &TaskContext) -> anyhow::Result<u32> {
    let step = ctx.step("step", || async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        STEPS.fetch_add(1, SeqCst);
        anyhow::Ok(())
    });
    let (stepped, slept) = tokio::join!(step, ctx.sleep("a day", DAY));
    stepped?;
    slept?;
    Ok(ctx.attempt())
}

#[conductor::test]
async fn a_running_step_is_not_cut_short(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G7Joined>(()).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    assert_eq!(STEPS.load(SeqCst), 1);
    test.advance(DAY).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 1, "a suspension is no failure");
    assert_eq!(STEPS.load(SeqCst), 1);
    Ok(())
}

#[task(name = "g7.child")]
async fn g7_child(ctx: &TaskContext, days: u32) -> anyhow::Result<String> {
    ctx.sleep("days", DAY * days).await?;
    Ok("child".to_owned())
}

#[task(name = "g7.race")]
async fn g7_race(ctx: &TaskContext, child_days: u32, sleep_days: u32) -> anyhow::Result<String> {
    let winner = tokio::select! {
        child = ctx.invoke::<G7Child>("child", G7Child { days: child_days }) => child?,
        slept = ctx.sleep("sleep", DAY * sleep_days) => {
            slept?;
            "sleep".to_owned()
        }
    };
    // The loser's wait must not wake it early for good, nor keep it from going on.
    ctx.sleep("after", DAY).await?;
    Ok(winner)
}

#[conductor::test]
async fn a_select_of_sleep_and_child_goes_on_with_the_first(
    test: TestConductor,
) -> anyhow::Result<()> {
    for (child_days, sleep_days, winner) in [(1, 9, "child"), (9, 1, "sleep")] {
        let race = G7Race {
            child_days,
            sleep_days,
        };
        let run = test.invoke::<G7Race>(race).await?;
        test.drain().await?;
        test.advance(DAY).await?;
        test.drain().await?;
        assert_eq!(run.status().await?, Status::Suspended);
        test.advance(DAY).await?;
        test.drain().await?;
        assert_eq!(run.result().await?, winner);
    }
    Ok(())
}

static WOKEN: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g7.year")]
async fn g7_year(ctx: &TaskContext) -> anyhow::Result<()> {
    WOKEN.fetch_add(1, SeqCst);
    ctx.sleep("a year", DAY * 365).await?;
    Ok(())
}

#[conductor::test]
async fn an_early_wake_does_not_skip_the_rest(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G7Year>(()).await?;
    test.drain().await?;
    test.advance(DAY * 300).await?;
    test.drain().await?;
    assert_eq!(WOKEN.load(SeqCst), 1);
    sqlx::query("update conductor.live_executions set run_at = conductor.now() where id = $1")
        .bind(run.id())
        .execute(test.pool())
        .await?;
    test.drain().await?;
    assert_eq!(WOKEN.load(SeqCst), 2);
    assert_eq!(run.status().await?, Status::Suspended);
    test.advance(DAY * 64).await?;
    test.drain().await?;
    assert_eq!(WOKEN.load(SeqCst), 2);
    test.advance(DAY).await?;
    test.drain().await?;
    run.result().await?;
    assert_eq!(WOKEN.load(SeqCst), 3);
    Ok(())
}

#[task(name = "g7.until")]
async fn g7_until(ctx: &TaskContext, at: chrono::DateTime<chrono::Utc>) -> anyhow::Result<()> {
    ctx.sleep_until("then", at).await?;
    Ok(())
}

#[conductor::test]
async fn a_sleep_until_a_past_or_a_far_time(test: TestConductor) -> anyhow::Result<()> {
    let now = test.now().await?;
    let past = test.invoke::<G7Until>(G7Until { at: now - DAY }).await?;
    let far = test
        .invoke::<G7Until>(G7Until {
            at: now + DAY * 36_500,
        })
        .await?;
    test.drain().await?;
    past.result().await?;
    assert_eq!(far.status().await?, Status::Suspended);
    test.advance(DAY * 36_501).await?;
    test.drain().await?;
    far.result().await?;
    Ok(())
}

#[task(name = "g7.endless", retry(max_attempts = 1))]
async fn g7_endless(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.sleep("for ever", Duration::MAX).await?;
    Ok(())
}

#[conductor::test]
async fn an_endless_sleep_is_refused(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G7Endless>(()).await?;
    test.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(error.contains("longer than 1000 years"), "{error}");
    Ok(())
}

#[conductor::test]
async fn a_sleeper_is_cancelled_at_once(test: TestConductor) -> anyhow::Result<()> {
    let sleeper = test
        .invoke::<G7Sleeper>(G7Sleeper { millis: 86_400_000 })
        .await?;
    test.drain().await?;
    assert!(test.cancel(sleeper.id()).reason("enough").await?);
    let error = sleeper.result().await.unwrap_err().to_string();
    assert!(error.contains("cancelled: enough"), "{error}");
    Ok(())
}

static IN_FIRST: Notify = Notify::const_new();
static LET_ON: Notify = Notify::const_new();
static SECONDS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g7.two-steps")]
async fn g7_two_steps(ctx: &TaskContext) -> anyhow::Result<u32> {
    let attempt: u32 = ctx
        .step("first", || async {
            IN_FIRST.notify_one();
            LET_ON.notified().await;
            anyhow::Ok(ctx.attempt())
        })
        .await?;
    ctx.step("second", || async {
        SECONDS.fetch_add(1, SeqCst);
        anyhow::Ok(())
    })
    .await?;
    Ok(attempt + ctx.attempt())
}

#[conductor::test]
async fn a_shutdown_takes_effect_between_two_steps(test: TestConductor) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<G7TwoSteps>(()).await?;
    IN_FIRST.notified().await;
    // The stop is said before the first step may end.
    let (stopped, ()) = tokio::join!(biased; worker.stop(), async { LET_ON.notify_one() });
    stopped?;
    assert_eq!(SECONDS.load(SeqCst), 0);
    assert_eq!(run.status().await?, Status::Pending);
    test.drain().await?;
    assert_eq!(run.result().await?, 2);
    assert_eq!(SECONDS.load(SeqCst), 1);
    Ok(())
}

/// Never ends by itself.
#[task(name = "g7.target")]
async fn g7_target(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(ctx.sleep("long", DAY * 1000).await?)
}

#[task(name = "g7.canceller")]
async fn g7_canceller(ctx: &TaskContext, target: Uuid) -> anyhow::Result<()> {
    let (slept, cancelled) =
        tokio::join!(ctx.sleep("a while", DAY), ctx.cancel(target).into_future());
    slept?;
    cancelled?;
    Ok(())
}

#[conductor::test]
async fn a_cancel_is_not_cut_short_by_a_wait_beside_it(test: TestConductor) -> anyhow::Result<()> {
    let target = test.invoke::<G7Target>(()).await?;
    let canceller = G7Canceller {
        target: target.id(),
    };
    let canceller = test.invoke::<G7Canceller>(canceller).await?;
    test.drain().await?;
    assert_eq!(canceller.status().await?, Status::Suspended);
    assert_eq!(target.status().await?, Status::Cancelled);
    Ok(())
}
