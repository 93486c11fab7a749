//! Windows: outside its hours a task is not claimed, and a running one stops at its next step.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use uuid::Uuid;

use crate::support::{Counted, Gate, count, eventually, info, narrow, soon};

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

#[task(name = "windows.friday", window("22:00-06:00", days = "Fri"))]
async fn windows_friday(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "windows.dawn", window("02:30-05:00", tz = "Europe/Berlin"))]
async fn windows_dawn(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "windows.late", window("23:00-02:30", tz = "Europe/Berlin"))]
async fn windows_late(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

/// How handlers that go on and on are told to end.
#[derive(Default)]
struct Enough(AtomicBool);

#[task(name = "windows.long", window = "22:00-06:00")]
async fn windows_long(ctx: &TaskContext) -> anyhow::Result<u32> {
    let (gate, enough) = ctx.state::<(Arc<Gate>, Arc<Enough>)>();
    let one: u32 = ctx
        .step("one", || async {
            gate.pass().await;
            anyhow::Ok(1)
        })
        .await?;
    while !enough.0.load(SeqCst) {
        ctx.checkpoint().await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(one + 1)
}

/// Counts how often the body of each step ran.
#[task(name = "windows.steps", window = "22:00-06:00")]
async fn windows_steps(ctx: &TaskContext) -> anyhow::Result<usize> {
    let (ran, enough) = ctx.state::<(Arc<Mutex<Vec<u32>>>, Arc<Enough>)>();
    let mut n = 0;
    while !enough.0.load(SeqCst) {
        ctx.step(format!("step {n}"), || async {
            let mut ran = ran.lock().unwrap();
            match ran.get_mut(n) {
                Some(times) => *times += 1,
                None => ran.push(1),
            }
            anyhow::Ok(())
        })
        .await?;
        n += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(n)
}

#[task(name = "windows.noted", window = "22:00-06:00")]
async fn windows_noted(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Mutex<Vec<Uuid>>>>()
        .lock()
        .unwrap()
        .push(ctx.execution_id());
    Ok(())
}

#[task(name = "windows.family", window = "22:00-06:00")]
async fn windows_family(ctx: &TaskContext) -> anyhow::Result<()> {
    let child = |n: usize| ctx.invoke::<WindowsNoon>(format!("child {n}"), ());
    let (a, b, c) = tokio::join!(child(1), child(2), child(3));
    a.and(b).and(c)?;
    Ok(())
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
async fn a_running_one_stops_at_a_checkpoint_and_goes_on_later(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (gate, enough) = (Gate::new(), Arc::new(Enough::default()));
    let test = test.state((Arc::clone(&gate), Arc::clone(&enough)));
    move_to(&test, "23:00:00").await?;
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<WindowsLong>(()).await?;
    gate.entered(1).await;
    move_to(&test, "07:00:00").await?;
    // The step that has begun may end.
    gate.open(1);
    postponed(&test, run.id()).await;
    let waiting = info(&test, run.id()).await?;
    assert_eq!((waiting.failures, waiting.crashes), (0, 0));
    assert_eq!(waiting.run_at.unwrap().format("%H:%M").to_string(), "22:00");
    enough.0.store(true, SeqCst);
    move_to(&test, "22:00:00").await?;
    assert_eq!(soon("its end", run.result()).await?, 2);
    assert_eq!(gate.unseen(), 0, "the step ran again");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_running_one_stops_before_its_next_step_and_repeats_none(
    test: TestConductor,
) -> anyhow::Result<()> {
    let ran = Arc::new(Mutex::<Vec<u32>>::default());
    let enough = Arc::new(Enough::default());
    let steps = || ran.lock().unwrap().len();
    let test = test.state((Arc::clone(&ran), Arc::clone(&enough)));
    move_to(&test, "05:00:00").await?;
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<WindowsSteps>(()).await?;
    eventually("some steps", || async { steps() >= 3 }).await;
    move_to(&test, "06:00:00").await?;
    postponed(&test, run.id()).await;
    let before = steps();
    move_to(&test, "22:00:00").await?;
    eventually("more steps", || async { steps() > before }).await;
    enough.0.store(true, SeqCst);
    let all = soon("its end", run.result()).await?;
    assert_eq!(*ran.lock().unwrap(), vec![1; all]);
    assert_eq!(info(&test, run.id()).await?.failures, 0);
    worker.stop().await?;
    Ok(())
}

/// Waits until it was put off to the opening.
async fn postponed(test: &TestConductor, id: Uuid) {
    eventually("it is put off", || async {
        let postponed: Option<bool> =
            sqlx::query_scalar("select postponed from conductor.live where id = $1")
                .bind(id)
                .fetch_optional(test.pool())
                .await
                .unwrap();
        postponed == Some(true)
    })
    .await;
}

#[conductor::test]
async fn the_day_of_the_opening_counts(test: TestConductor) -> anyhow::Result<()> {
    // A Friday.
    at(&test, "2031-03-07T21:59:00Z").await?;
    let first = test.invoke::<WindowsFriday>(()).await?;
    opens(&test, first.id(), "2031-03-07T22:00:00Z").await?;
    // Saturday morning still belongs to it.
    at(&test, "2031-03-08T05:59:00Z").await?;
    test.drain().await?;
    assert_eq!(first.status().await?, Status::Completed);
    at(&test, "2031-03-08T06:00:00Z").await?;
    let second = test.invoke::<WindowsFriday>(()).await?;
    opens(&test, second.id(), "2031-03-14T22:00:00Z").await?;
    at(&test, "2031-03-08T23:00:00Z").await?;
    test.drain().await?;
    assert_eq!(second.status().await?, Status::Pending);
    at(&test, "2031-03-14T22:00:00Z").await?;
    test.drain().await?;
    assert_eq!(second.status().await?, Status::Completed);
    Ok(())
}

#[conductor::test]
async fn a_change_of_the_clock_moves_opening_and_closing(
    test: TestConductor,
) -> anyhow::Result<()> {
    // Each with what opens at 02:30 and what closes at 02:30, by a clock in Berlin.
    for (before, opening, closing, next) in [
        // From 02:00 the clock goes to 03:00.
        (
            "2031-03-29T23:30:00Z",
            "2031-03-30T01:00:00Z",
            "2031-03-30T01:00:00Z",
            "2031-03-30T21:00:00Z",
        ),
        // From 03:00 it goes back to 02:00.
        (
            "2031-10-25T23:30:00Z",
            "2031-10-26T00:30:00Z",
            "2031-10-26T00:30:00Z",
            "2031-10-26T22:00:00Z",
        ),
    ] {
        at(&test, before).await?;
        let dawn = test.invoke::<WindowsDawn>(()).await?;
        let late = test.invoke::<WindowsLate>(()).await?;
        opens(&test, dawn.id(), opening).await?;
        assert_eq!(late.status().await?, Status::Completed);

        let closing: DateTime<Utc> = closing.parse()?;
        at(&test, &(closing - TimeDelta::minutes(1)).to_rfc3339()).await?;
        let late = test.invoke::<WindowsLate>(()).await?;
        test.drain().await?;
        assert_eq!(late.status().await?, Status::Completed);
        assert_eq!(dawn.status().await?, Status::Pending);

        at(&test, &closing.to_rfc3339()).await?;
        let late = test.invoke::<WindowsLate>(()).await?;
        opens(&test, late.id(), next).await?;
        assert_eq!(dawn.status().await?, Status::Completed);
        // In autumn 02:15 comes a second time.
        at(&test, &(closing + TimeDelta::minutes(45)).to_rfc3339()).await?;
        let again = test.invoke::<WindowsLate>(()).await?;
        opens(&test, again.id(), next).await?;
        at(&test, next).await?;
        test.drain().await?;
        assert_eq!(late.status().await?, Status::Completed);
        assert_eq!(again.status().await?, Status::Completed);
    }
    Ok(())
}

/// Moves the clock to a time that is to come.
async fn at(test: &TestConductor, time: &str) -> anyhow::Result<()> {
    let time: DateTime<Utc> = time.parse()?;
    let by = time - test.now().await?;
    Ok(test.advance(by.to_std()?).await?)
}

/// Nothing that is due runs it, and it waits for this opening.
async fn opens(test: &TestConductor, id: Uuid, opening: &str) -> anyhow::Result<()> {
    test.drain().await?;
    let waiting = info(test, id).await?;
    assert_eq!((waiting.state, waiting.claim), (Status::Pending, 0));
    assert_eq!(waiting.run_at, Some(opening.parse()?));
    Ok(())
}

#[conductor::test]
async fn after_the_opening_they_start_in_the_order_of_their_invokes(
    test: TestConductor,
) -> anyhow::Result<()> {
    let noted = Arc::new(Mutex::<Vec<Uuid>>::default());
    let test = test.state(Arc::clone(&noted));
    move_to(&test, "15:00:00").await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.extend(test.invoke_batch::<WindowsNoted>(vec![(); 5]).await?);
        test.drain().await?;
        test.advance(HOUR).await?;
    }
    let high = test.invoke::<WindowsNoted>(()).priority(1).await?.id();
    test.drain().await?;
    move_to(&test, "22:30:00").await?;
    ids.push(test.invoke::<WindowsNoted>(()).await?.id());
    let one = test
        .orchestrator()
        .worker(narrow(1))
        .allow_unserved_queues();
    one.build()?.drain().await?;
    ids.insert(0, high);
    assert_eq!(*noted.lock().unwrap(), ids);
    Ok(())
}

#[conductor::test]
async fn a_deep_backlog_behind_a_closed_window_delays_no_other(
    test: TestConductor,
) -> anyhow::Result<()> {
    const MANY: usize = 20_000;
    move_to(&test, "15:00:00").await?;
    test.invoke_batch::<WindowsNight>(vec![(); MANY]).await?;
    let any = test.invoke::<WindowsAny>(()).await?;
    // One claim is enough to reach what stands behind them.
    let first: Vec<Option<Uuid>> = sqlx::query_scalar(
        "with t as (select array_agg(t.id) as ids, t.queue_id from conductor.tasks t
                     where t.name in ('windows.night', 'windows.any') group by t.queue_id),
              o as (select conductor.start_orchestrator('', 1, array[t.queue_id], t.ids, '1 minute') as id from t)
         select c.id from t, o, conductor.claim(o.id, t.queue_id, t.ids, 1, true,
                array(select n.id from conductor.tasks n where n.name = 'windows.night'),
                array[conductor.now() + interval '7 hours'], array[conductor.now() + interval '8 hours']) c",
    )
    .fetch_all(test.pool())
    .await?;
    assert_eq!(first, [Some(any.id())]);
    let any = test.invoke::<WindowsAny>(()).await?;
    let one = test
        .orchestrator()
        .worker(narrow(1))
        .allow_unserved_queues();
    let worker = one.build()?.start().await?;
    soon("its end", any.result()).await?;
    let claimed = info(&test, any.id()).await?;
    let waited = claimed.claimed_at.unwrap() - claimed.created_at;
    eventually("the whole backlog is put off", || async {
        count(&test, "postponed").await.unwrap() == i64::try_from(MANY).unwrap()
    })
    .await;
    assert!(waited < TimeDelta::seconds(10), "{waited}");
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
    assert_eq!(count(&test, "postponed").await?, 0);
    Ok(())
}

#[conductor::test]
async fn a_worker_from_before_the_deploy_puts_nothing_off_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    move_to(&test, "15:00:00").await?;
    let old = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<WindowsNight>(()).await?;
    postponed(&test, run.id()).await;
    crate::support::declare(&test, "windows.night").await?;
    // It looks again, and past what is not its own to judge.
    for _ in 0..2 {
        soon("another", test.invoke::<WindowsAny>(()).await?.result()).await?;
    }
    let due = info(&test, run.id()).await?;
    assert_eq!((due.postponed, due.claim), (false, 0));
    assert!(due.run_at.unwrap() <= test.now().await?);
    old.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_deploy_with_another_window_lets_it_decide(test: TestConductor) -> anyhow::Result<()> {
    move_to(&test, "15:00:00").await?;
    let night = test.invoke::<WindowsNight>(()).await?;
    let noon = test.invoke::<WindowsNoon>(()).await?;
    test.drain().await?;
    // As an older program has declared and put them off.
    sqlx::query(
        r#"update conductor.tasks set time_window = '{"hours": "08:00-09:00", "timezone": "UTC"}'
            where name in ('windows.night', 'windows.noon')"#,
    )
    .execute(test.pool())
    .await?;
    sqlx::query("update conductor.live_executions set run_at = run_at + interval '30 days'")
        .execute(test.pool())
        .await?;
    move_to(&test, "23:00:00").await?;
    test.drain().await?;
    assert_eq!(night.status().await?, Status::Completed);
    let waiting = info(&test, noon.id()).await?;
    assert_eq!(waiting.state, Status::Pending);
    assert!(waiting.run_at.unwrap() - test.now().await? < TimeDelta::days(1));
    Ok(())
}

#[conductor::test]
async fn a_parent_that_a_child_wakes_waits_for_its_window_no_longer(
    test: TestConductor,
) -> anyhow::Result<()> {
    move_to(&test, "23:00:00").await?;
    let parent = test.invoke::<WindowsFamily>(()).await?;
    test.drain().await?;
    // Woken while the window is closed, and for a part of what it waits for.
    move_to(&test, "07:00:00").await?;
    child_ends(&test, parent.id(), "child 1").await?;
    test.drain().await?;
    let waiting = info(&test, parent.id()).await?;
    assert_eq!(waiting.state, Status::Suspended);
    assert_eq!(waiting.run_at.unwrap().format("%H:%M").to_string(), "22:00");
    assert_eq!(
        count(&test, "postponed and task = 'windows.family'").await?,
        1
    );
    child_ends(&test, parent.id(), "child 2").await?;
    assert_eq!(
        count(&test, "postponed and task = 'windows.family'").await?,
        0
    );
    Ok(())
}

async fn child_ends(test: &TestConductor, parent: Uuid, key: &str) -> anyhow::Result<()> {
    sqlx::query(
        r#"select conductor.report(array[w.child_id], array[w.execution_id], array[w.key],
                                   array['{"state": "completed", "output": null}'])
             from conductor.waits w where w.execution_id = $1 and w.key = $2"#,
    )
    .bind(parent)
    .bind(key)
    .execute(test.pool())
    .await?;
    Ok(())
}

#[conductor::test]
async fn a_closed_window_makes_no_worker_busy(test: TestConductor) -> anyhow::Result<()> {
    move_to(&test, "15:00:00").await?;
    let idle = claims(&test).await?;
    test.invoke_batch::<WindowsNight>(vec![(); 50]).await?;
    let closed = claims(&test).await? - idle;
    assert_eq!(count(&test, "postponed").await?, 50);
    assert!(
        (2..25).contains(&idle) && closed <= idle + 10,
        "{idle} and {closed}"
    );
    Ok(())
}

/// How many claims are made until a worker has lived for three more seconds.
async fn claims(test: &TestConductor) -> anyhow::Result<i64> {
    let counted = Counted::connect(test).await?;
    let one = Orchestrator::builder(counted.conductor.clone())
        .worker(narrow(1))
        .allow_unserved_queues();
    let worker = one.build()?.start().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    worker.stop().await?;
    Ok(counted.calls(test, "claim_gated").await)
}
