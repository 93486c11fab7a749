//! Windows: outside its hours a task is not claimed, and a running one stops at its next step.

use std::sync::Arc;
use std::time::Duration;

use chrono::{NaiveTime, TimeDelta};
use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{Gate, eventually, info, soon};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[task(name = "windows.night", window = "22:00-06:00")]
async fn windows_night(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "windows.noon", window = "12:00-13:00")]
async fn windows_noon(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "windows.any")]
async fn windows_any(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "windows.long", window = "22:00-06:00")]
async fn windows_long(ctx: &TaskContext) -> anyhow::Result<u32> {
    let gate = ctx.state::<Arc<Gate>>();
    let one: u32 = ctx
        .step("one", || async {
            gate.pass().await;
            anyhow::Ok(1)
        })
        .await?;
    ctx.checkpoint().await?;
    Ok(one + 1)
}

/// Moves the clock to the next time that a UTC clock shows this.
async fn move_to(test: &TestConductor, time: &str) -> anyhow::Result<()> {
    let now = test.now().await?;
    let mut at = now
        .date_naive()
        .and_time(time.parse::<NaiveTime>()?)
        .and_utc();
    if at <= now {
        at += TimeDelta::days(1);
    }
    test.advance((at - now).to_std()?).await?;
    Ok(())
}

#[conductor::test]
async fn outside_its_window_a_task_is_not_claimed(test: TestConductor) -> anyhow::Result<()> {
    move_to(&test, "15:00:00").await?;
    let night = test.invoke::<WindowsNight>(()).await?;
    let noon = test.invoke::<WindowsNoon>(()).await?;
    let any = test.invoke::<WindowsAny>(()).await?;
    test.drain().await?;
    // With two windows closed, what has none goes on.
    assert_eq!(any.status().await?, Status::Completed);
    for (id, opens) in [(night.id(), "22:00"), (noon.id(), "12:00")] {
        let waiting = info(&test, id).await?;
        assert_eq!((waiting.state, waiting.claim), (Status::Pending, 0));
        assert_eq!(waiting.claimed_at, None);
        assert_eq!(waiting.run_at.unwrap().format("%H:%M").to_string(), opens);
    }
    // Over midnight.
    move_to(&test, "02:00:00").await?;
    test.drain().await?;
    assert_eq!(night.status().await?, Status::Completed);
    assert_eq!(noon.status().await?, Status::Pending);
    let again = test.invoke::<WindowsNight>(()).await?;
    test.drain().await?;
    assert_eq!(again.status().await?, Status::Completed);
    move_to(&test, "12:30:00").await?;
    test.drain().await?;
    assert_eq!(noon.status().await?, Status::Completed);
    Ok(())
}

#[conductor::test]
async fn a_worker_starts_it_when_the_window_opens(test: TestConductor) -> anyhow::Result<()> {
    move_to(&test, "21:00:00").await?;
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<WindowsNight>(()).await?;
    eventually("it waits for the window", || async {
        let at = info(&test, run.id()).await.unwrap().run_at.unwrap();
        at.format("%H:%M").to_string() == "22:00"
    })
    .await;
    test.advance(HOUR).await?;
    soon("its end", run.result()).await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_running_one_stops_at_its_next_step_and_goes_on_later(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let test = test.state(Arc::clone(&gate));
    move_to(&test, "23:00:00").await?;
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<WindowsLong>(()).await?;
    gate.entered(1).await;
    move_to(&test, "07:00:00").await?;
    // The step that has begun may end.
    gate.open(1);
    eventually("it is put off", || async {
        info(&test, run.id()).await.unwrap().state == Status::Pending
    })
    .await;
    let waiting = info(&test, run.id()).await?;
    assert_eq!((waiting.failures, waiting.crashes), (0, 0));
    assert_eq!(waiting.run_at.unwrap().format("%H:%M").to_string(), "22:00");
    move_to(&test, "22:00:00").await?;
    assert_eq!(soon("its end", run.result()).await?, 2);
    assert_eq!(gate.unseen(), 0, "the step ran again");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_deploy_without_the_window_lets_go_what_waits(test: TestConductor) -> anyhow::Result<()> {
    move_to(&test, "15:00:00").await?;
    let run = test.invoke::<WindowsNight>(()).await?;
    test.drain().await?;
    crate::support::declare(&test, "windows.night").await?;
    assert!(info(&test, run.id()).await?.run_at.unwrap() <= test.now().await?);
    Ok(())
}
