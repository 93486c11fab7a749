//! Schedules that are made at run time: from the client, a handler, SQL.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Missed, Overlap, Reason, Status, Trigger};
use uuid::Uuid;

use crate::support::{Gate, count, eventually, session, sqlstate, to_half_past};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

#[task(name = "dynamic.report")]
async fn dynamic_report(ctx: &TaskContext, kind: String) -> anyhow::Result<String> {
    Ok(match ctx.trigger() {
        Trigger::Schedule { name, scheduled_at } => {
            format!("{kind} by {name} at {}", scheduled_at.to_rfc3339())
        }
        Trigger::Invoke => format!("{kind} by hand"),
        other => format!("{other:?}"),
    })
}

fn sales() -> DynamicReport {
    DynamicReport {
        kind: "sales".to_owned(),
    }
}

/// What the schedule's executions gave, in order.
async fn reports(test: &TestConductor) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "select output #>> '{}' from conductor.executions where task = 'dynamic.report' and state = 'completed'
          order by id",
    )
    .fetch_all(test.pool())
    .await?)
}

async fn next(test: &TestConductor) -> anyhow::Result<Option<DateTime<Utc>>> {
    Ok(test.schedules().await?[0].next_at)
}

#[conductor::test]
async fn each_tick_makes_one_execution_that_knows_its_tick(
    test: TestConductor,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicReport>("hourly", "0 * * * *", sales())
        .await?;
    let first = next(&test).await?.unwrap();
    test.drain().await?;
    assert_eq!(next(&test).await?, Some(first));
    assert!(reports(&test).await?.is_empty());
    for n in 0..3 {
        test.advance(HOUR).await?;
        test.drain().await?;
        let tick = first + TimeDelta::hours(n);
        let all = reports(&test).await?;
        assert_eq!(all.len(), usize::try_from(n)? + 1);
        let expected = format!("sales by hourly at {}", tick.to_rfc3339());
        assert_eq!(all.last(), Some(&expected));
    }
    test.invoke::<DynamicReport>(sales()).await?;
    test.drain().await?;
    assert_eq!(reports(&test).await?.last().unwrap(), "sales by hand");
    Ok(())
}

#[conductor::test]
async fn missed_decides_about_ticks_while_nobody_lived(test: TestConductor) -> anyhow::Result<()> {
    for (name, missed) in [("s", Missed::Skip), ("o", Missed::Once), ("a", Missed::All)] {
        test.schedule::<DynamicReport>(name, "30 * * * *", sales())
            .missed(missed)
            .await?;
    }
    test.drain().await?;
    // To a minute past the fifth tick from now.
    let to_fifth = next(&test).await?.unwrap() + TimeDelta::hours(4) - test.now().await?;
    test.advance(to_fifth.to_std()? + MINUTE).await?;
    test.drain().await?;
    let made = |name: &str, all: &[String]| {
        let by = format!("by {name} at");
        all.iter().filter(|report| report.contains(&by)).count()
    };
    let all = reports(&test).await?;
    assert_eq!(
        (made("s", &all), made("o", &all), made("a", &all)),
        (0, 1, 5)
    );
    // On time again, all tick.
    test.advance(HOUR - MINUTE).await?;
    test.drain().await?;
    let all = reports(&test).await?;
    assert_eq!(
        (made("s", &all), made("o", &all), made("a", &all)),
        (1, 2, 6)
    );
    Ok(())
}

#[conductor::test]
async fn the_same_name_replaces_and_an_unchanged_rule_keeps_its_beat(
    test: TestConductor,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicReport>("r", "0 * * * *", sales())
        .await?;
    test.drain().await?;
    let hourly = next(&test).await?;
    test.schedule::<DynamicReport>("r", "0 * * * *", sales())
        .missed(Missed::All)
        .await?;
    assert_eq!(next(&test).await?, hourly);
    test.schedule::<DynamicReport>("r", "0 0 1 1 *", sales())
        .timezone("Europe/Berlin")
        .await?;
    let all = test.schedules().await?;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (&*all[0].cron, &*all[0].timezone),
        ("0 0 1 1 *", "Europe/Berlin")
    );
    // Midnight in Berlin, in winter.
    assert_eq!(
        all[0].next_at.unwrap().format("%m-%d %H:%M").to_string(),
        "12-31 23:00"
    );
    test.advance(HOUR).await?;
    test.drain().await?;
    assert!(reports(&test).await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn what_runs_goes_on_when_its_schedule_goes(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicReport>("r", "0 * * * *", sales())
        .await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    // The tick is made by a worker that cannot run it.
    let elsewhere = Worker::queue("g7-narrow");
    let ticker = test.orchestrator().only_workers([elsewhere]).build()?;
    let ticker = ticker.start().await?;
    eventually("the tick", || async {
        count(&test, "true").await.unwrap() == 1
    })
    .await;
    ticker.stop().await?;
    assert!(test.unschedule::<DynamicReport>("r").await?);
    assert!(!test.unschedule::<DynamicReport>("r").await?);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(reports(&test).await?.len(), 1);
    assert_eq!(count(&test, "state = 'completed'").await?, 1);
    assert!(test.schedules().await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_paused_schedule_rests_and_misses_nothing(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicReport>("r", "0 * * * *", sales())
        .missed(Missed::All)
        .await?;
    test.drain().await?;
    assert!(test.pause_schedule("dynamic.report", "r").await?);
    test.advance(HOUR * 5).await?;
    test.drain().await?;
    assert!(reports(&test).await?.is_empty());
    let paused = &test.schedules().await?[0];
    assert!(paused.paused && paused.next_at.is_none());
    assert!(test.resume_schedule("dynamic.report", "r").await?);
    test.drain().await?;
    assert!(reports(&test).await?.is_empty());
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(reports(&test).await?.len(), 1);
    assert!(!test.pause_schedule("dynamic.report", "other").await?);
    assert!(!test.resume_schedule("nobody", "r\0").await?);
    Ok(())
}

#[conductor::test]
async fn trigger_now_is_beside_the_ticks(test: TestConductor) -> anyhow::Result<()> {
    test.schedule::<DynamicReport>("r", "0 0 1 1 *", sales())
        .await?;
    let before = next(&test).await?;
    let id = test.trigger_schedule("dynamic.report", "r").await?.unwrap();
    test.drain().await?;
    let report = test.execution::<DynamicReport>(id).result().await?;
    assert!(report.starts_with("sales by r at "), "{report}");
    assert_eq!(next(&test).await?, before);
    assert_eq!(test.trigger_schedule("dynamic.report", "s").await?, None);
    assert_eq!(test.trigger_schedule("no\0body", "s").await?, None);
    Ok(())
}

#[task(name = "dynamic.slow")]
async fn dynamic_slow(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.sleep("long", HOUR * 2 + MINUTE).await?;
    Ok(())
}

#[conductor::test]
async fn what_sleeps_goes_on_when_its_schedule_goes(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicSlow>("r", "0 * * * *", ()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    let id = test.schedules().await?[0].last_execution.unwrap();
    let run = test.execution::<DynamicSlow>(id);
    assert_eq!(run.status().await?, Status::Suspended);
    assert!(test.unschedule::<DynamicSlow>("r").await?);
    test.advance(HOUR * 3).await?;
    test.drain().await?;
    run.result().await?;
    assert_eq!(count(&test, "true").await?, 1);
    Ok(())
}

#[conductor::test]
async fn a_tick_may_wait_for_the_one_before(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicSlow>("alone", "0 * * * *", ())
        .overlap(Overlap::Skip)
        .await?;
    test.schedule::<DynamicSlow>("beside", "0 * * * *", ())
        .await?;
    test.drain().await?;
    for _ in 0..6 {
        test.advance(HOUR).await?;
        test.drain().await?;
    }
    let made = |name: &'static str| {
        count(
            &test,
            match name {
                "alone" => "trigger->>'name' = 'alone'",
                _ => "trigger->>'name' = 'beside'",
            },
        )
    };
    assert_eq!((made("alone").await?, made("beside").await?), (2, 6));
    Ok(())
}

#[task(name = "dynamic.night", keep(completed = "30d"))]
async fn dynamic_night(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.sleep("long", HOUR * 25).await?;
    Ok(())
}

const DONE: (&str, bool) = ("completed", true);
const SLEEPS: (&str, bool) = ("suspended", true);
const QUEUES: (&str, bool) = ("pending", false);

/// The executions of ticks in their order: the state, and whether a worker has had it.
async fn nights(test: &TestConductor, expected: &[(&str, bool)]) {
    let found: Vec<(String, bool)> = sqlx::query_as(
        "select state, claimed_at is not null from conductor.executions
          where task = 'dynamic.night' order by (trigger->>'scheduled_at')::timestamptz, id",
    )
    .fetch_all(test.pool())
    .await
    .unwrap();
    let found: Vec<(&str, bool)> = found.iter().map(|(state, had)| (&**state, *had)).collect();
    assert_eq!(found, expected);
}

/// Three ticks of a daily schedule are missed, and half an hour has passed since the last one.
async fn miss_three_nights(test: &TestConductor) -> anyhow::Result<()> {
    to_half_past(test).await?;
    let hour = (test.now().await? + TimeDelta::hours(1))
        .format("%H")
        .to_string();
    test.schedule::<DynamicNight>("nightly", format!("0 {hour} * * *"), ())
        .missed(Missed::All)
        .overlap(Overlap::Skip)
        .await?;
    test.drain().await?;
    test.advance(HOUR * 49).await?;
    Ok(test.drain().await?)
}

/// Moves the clock to the next tick of the only schedule, so that it is punctual.
async fn to_next_tick(test: &TestConductor) -> anyhow::Result<()> {
    let until = next(test).await?.unwrap() - test.now().await?;
    test.advance(until.to_std()? + Duration::from_millis(20))
        .await?;
    Ok(test.drain().await?)
}

#[conductor::test]
async fn missed_ticks_that_must_not_overlap_run_one_behind_the_other(
    test: TestConductor,
) -> anyhow::Result<()> {
    miss_three_nights(&test).await?;
    nights(&test, &[SLEEPS, QUEUES, QUEUES]).await;
    // A tick in life is left out, as it meets one that runs.
    let hours = [
        [SLEEPS, QUEUES, QUEUES],
        [DONE, SLEEPS, QUEUES],
        [DONE, DONE, SLEEPS],
    ];
    for (expected, hours) in hours.iter().zip([2, 4, 6]) {
        to_next_tick(&test).await?;
        nights(&test, expected).await;
        test.advance(HOUR * hours).await?;
        test.drain().await?;
    }
    nights(&test, &[DONE; 3]).await;
    to_next_tick(&test).await?;
    nights(&test, &[DONE, DONE, DONE, SLEEPS]).await;
    Ok(())
}

#[conductor::test]
async fn queued_ticks_outlive_cancels_an_outage_and_their_schedule(
    test: TestConductor,
) -> anyhow::Result<()> {
    miss_three_nights(&test).await?;
    let waiting: Vec<Uuid> = sqlx::query_scalar(
        "select id from conductor.live where state = 'pending' order by trigger->>'scheduled_at'",
    )
    .fetch_all(test.pool())
    .await?;
    let why = test.why(waiting[1]).await?;
    let first = test.why(waiting[0]).await?;
    assert!(
        matches!(why.reason, Reason::TickBefore { before: 2, .. }),
        "{why:?}"
    );
    assert!(
        matches!(first.reason, Reason::TickBefore { before: 1, .. }),
        "{first:?}"
    );
    assert!(
        why.text.starts_with(
            "waits for the 2 ticks before it, as they must not overlap; the first is "
        ),
        "{why}"
    );
    // The last one: what runs is met all the same.
    test.cancel(waiting[1]).await?;
    to_next_tick(&test).await?;
    nights(&test, &[SLEEPS, QUEUES, ("cancelled", false)]).await;
    // Two more are missed; nothing lived meanwhile.
    test.advance(HOUR * 49).await?;
    test.drain().await?;
    nights(&test, &[DONE, SLEEPS, ("cancelled", false), QUEUES, QUEUES]).await;
    assert!(test.unschedule::<DynamicNight>("nightly").await?);
    for _ in 0..3 {
        test.advance(HOUR * 26).await?;
        test.drain().await?;
    }
    nights(&test, &[DONE, DONE, ("cancelled", false), DONE, DONE]).await;
    let left: i64 = sqlx::query_scalar("select count(*) from conductor.queued_ticks")
        .fetch_one(test.pool())
        .await?;
    assert_eq!(left, 0);
    Ok(())
}

/// How many of `dynamic.alone` run, and how many at most have.
static ALONE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

#[task(name = "dynamic.alone", retry(max_attempts = 2, backoff = "1ms"))]
async fn dynamic_alone(ctx: &TaskContext) -> anyhow::Result<()> {
    let running = ALONE[0].fetch_add(1, Ordering::SeqCst) + 1;
    ALONE[1].fetch_max(running, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(5)).await;
    ALONE[0].fetch_sub(1, Ordering::SeqCst);
    anyhow::ensure!(ctx.attempt() == 2, "once more");
    Ok(())
}

#[conductor::test]
async fn many_missed_ticks_never_overlap(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<DynamicAlone>("often", "0 * * * *", ())
        .missed(Missed::All)
        .overlap(Overlap::Skip)
        .await?;
    test.drain().await?;
    test.advance(HOUR * 12).await?;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(test.orchestrator().build()?.start().await?);
    }
    eventually("all ticks", async || {
        count(&test, "task = 'dynamic.alone' and state = 'completed'")
            .await
            .unwrap()
            == 12
    })
    .await;
    for worker in workers {
        worker.stop().await?;
    }
    assert_eq!(ALONE[1].load(Ordering::SeqCst), 1);
    // In the order of their ticks.
    let sorted: bool = sqlx::query_scalar(
        "select array_agg(id order by finished_at) = array_agg(id order by trigger->>'scheduled_at')
           from conductor.finished where task = 'dynamic.alone'",
    )
    .fetch_one(test.pool())
    .await?;
    assert!(sorted);
    Ok(())
}

#[task(name = "dynamic.start")]
async fn dynamic_start(ctx: &TaskContext, fail_first: bool) -> anyhow::Result<()> {
    ctx.schedule::<DynamicReport>("by-task", "0 * * * *", sales())
        .timezone("Asia/Kathmandu")
        .missed(Missed::All)
        .await?;
    if fail_first && ctx.attempt() == 1 {
        anyhow::bail!("once more");
    }
    Ok(())
}

#[task(name = "dynamic.stop")]
async fn dynamic_stop(ctx: &TaskContext) -> anyhow::Result<(bool, bool)> {
    Ok((
        ctx.unschedule::<DynamicReport>("by-task").await?,
        ctx.unschedule::<DynamicReport>("by-task").await?,
    ))
}

#[conductor::test]
async fn a_handler_schedules_once_whatever_is_replayed(test: TestConductor) -> anyhow::Result<()> {
    let start = test
        .invoke::<DynamicStart>(DynamicStart { fail_first: true })
        .await?;
    test.drain().await?;
    let made = &test.schedules().await?[0];
    assert_eq!((&*made.timezone, &*made.missed), ("Asia/Kathmandu", "all"));
    // Somebody removes it before the second attempt, which must not bring it back.
    assert!(test.unschedule::<DynamicReport>("by-task").await?);
    test.advance(MINUTE).await?;
    test.drain().await?;
    start.result().await?;
    assert!(test.schedules().await?.is_empty());

    test.invoke::<DynamicStart>(DynamicStart { fail_first: false })
        .await?;
    let stop = test.invoke::<DynamicStop>(()).delay(MINUTE).await?;
    test.drain().await?;
    test.advance(MINUTE).await?;
    test.drain().await?;
    assert_eq!(stop.result().await?, (true, false));
    Ok(())
}

#[conductor::test]
async fn sql_makes_schedules_too(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    // Tasks are known once a worker has started.
    test.drain().await?;
    sqlx::raw_sql(
        r#"select conductor.schedule('dynamic.report', 'it''s "x"; drop table --', '*/5 * * * *',
                                     '{"kind": "sql"}', 'Europe/Berlin');
           select conductor.schedule('dynamic.report', 'odd', 'every day', '{"kind": "odd"}');"#,
    )
    .execute(test.pool())
    .await?;
    test.drain().await?;
    test.advance(MINUTE * 5).await?;
    test.drain().await?;
    let all = reports(&test).await?;
    assert_eq!(all.len(), 1);
    assert!(
        all[0].starts_with("sql by it's \"x\"; drop table -- at "),
        "{all:?}"
    );
    let schedules = test.schedules().await?;
    let odd = schedules.iter().find(|s| s.name == "odd").unwrap();
    assert!(odd.fault.as_ref().unwrap().contains("2 fields"), "{odd:?}");
    for (refused, code) in [
        (
            "select conductor.schedule('nobody', 'n', '* * * * *')",
            "CD001",
        ),
        (
            "select conductor.schedule('dynamic.report', '', '* * * * *')",
            "CD002",
        ),
        (
            "select conductor.schedule('dynamic.report', 'n', '')",
            "CD002",
        ),
        (
            "select conductor.schedule('dynamic.report', 'n', '@daily', timezone => 'Mars')",
            "CD002",
        ),
        (
            "select conductor.schedule('dynamic.report', 'n', '@daily', missed => 'x')",
            "CD002",
        ),
        (
            "select conductor.schedule('dynamic.report', 'n', '@daily', overlap => null)",
            "CD002",
        ),
    ] {
        let error = sqlx::raw_sql(refused)
            .execute(test.pool())
            .await
            .unwrap_err();
        assert_eq!(
            sqlstate(&error).as_deref(),
            Some(code),
            "{refused}: {error}"
        );
    }
    Ok(())
}

#[task(name = "dynamic.many")]
async fn dynamic_many(_ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    Ok(n)
}

#[conductor::test]
async fn eight_workers_make_each_tick_once(test: TestConductor) -> anyhow::Result<()> {
    for n in 0..10 {
        test.schedule::<DynamicMany>(format!("many {n}"), "* * * * * *", DynamicMany { n })
            .missed(Missed::All)
            .await?;
    }
    let mut workers = Vec::new();
    for _ in 0..8 {
        workers.push(test.orchestrator().build()?.start().await?);
    }
    eventually("the first ticks", || async {
        test.schedules()
            .await
            .unwrap()
            .iter()
            .all(|s| s.next_at.is_some())
    })
    .await;
    test.advance(Duration::from_secs(20)).await?;
    eventually("twenty ticks each", || async {
        count(&test, "task = 'dynamic.many'").await.unwrap() >= 200
    })
    .await;
    for worker in workers {
        worker.stop().await?;
    }
    let doubles: Vec<(String, String)> = sqlx::query_as(
        "select trigger->>'name', trigger->>'scheduled_at' from conductor.executions
          where task = 'dynamic.many' group by 1, 2 having count(*) > 1",
    )
    .fetch_all(test.pool())
    .await?;
    assert!(doubles.is_empty(), "{doubles:?}");
    // No second is left out between the first and the last tick.
    let gaps: i64 = sqlx::query_scalar(
        "select count(*) from (
             select (trigger->>'scheduled_at')::timestamptz
                    - lag((trigger->>'scheduled_at')::timestamptz)
                          over (partition by trigger->>'name' order by (trigger->>'scheduled_at')::timestamptz)
                    as gap
               from conductor.executions where task = 'dynamic.many') g
          where gap <> interval '1 s'",
    )
    .fetch_one(test.pool())
    .await?;
    assert_eq!(gaps, 0);
    Ok(())
}

#[conductor::test]
async fn a_tick_starts_on_time_on_an_idle_system(test: TestConductor) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    test.schedule::<DynamicReport>("each second", "* * * * * *", sales())
        .await?;
    eventually("some ticks", || async {
        reports(&test).await.unwrap().len() >= 4
    })
    .await;
    worker.stop().await?;
    let mut late: Vec<f64> = sqlx::query_scalar(
        "select (extract(epoch from claimed_at - (trigger->>'scheduled_at')::timestamptz) * 1000)::float8
           from conductor.finished",
    )
    .fetch_all(test.pool())
    .await?;
    late.sort_by(f64::total_cmp);
    // The quickest ones, as this machine has other tests to run.
    assert!(late[0] >= 0.0 && late[1] < 100.0, "{late:?}");
    Ok(())
}

#[conductor::test]
async fn ten_thousand_schedules_cost_an_idle_worker_next_to_nothing(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    sqlx::raw_sql(
        "insert into conductor.schedules (task_id, name, dynamic, owner, cron, timezone, missed, overlap,
                                          payload, next_at, planned_from)
         select t.id, 'n ' || n, true, '', '0 0 1 1 *', 'UTC', 'once', 'allow', '{\"kind\": \"x\"}',
                conductor.now() + n * interval '1 hour', conductor.now()
           from conductor.tasks t, generate_series(1, 10000) as n where t.name = 'dynamic.report';
         analyze conductor.schedules;",
    )
    .execute(test.pool())
    .await?;
    let mut session = session(&test).await?;
    sqlx::raw_sql(
        "create function pg_temp.explained(p_sql text) returns jsonb language plpgsql as $$
         declare v_plan jsonb;
         begin
             execute 'explain (analyze, buffers, format json) ' || p_sql into v_plan;
             return v_plan;
         end $$;",
    )
    .execute(&mut session)
    .await?;
    let mut blocks = 0;
    // Planning the statements reads the catalogue the first time.
    for _ in 0..2 {
        blocks = sqlx::query_scalar(
            "select (plan->0->'Plan'->>'Shared Hit Blocks')::bigint
                    + (plan->0->'Plan'->>'Shared Read Blocks')::bigint
               from pg_temp.explained('select * from conductor.due_schedules(array[]::bigint[], 500)') as plan",
        )
        .fetch_one(&mut session)
        .await?;
    }
    assert!((1_i64..50).contains(&blocks), "{blocks}");
    Ok(())
}

#[task(name = "dynamic.gated")]
async fn dynamic_gated(ctx: &TaskContext) -> anyhow::Result<Uuid> {
    ctx.state::<std::sync::Arc<Gate>>().pass().await;
    Ok(ctx.execution_id())
}

#[conductor::test]
async fn cancelling_a_tick_leaves_the_schedule_alive(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    let gate = Gate::new();
    let test = test.state(std::sync::Arc::clone(&gate));
    test.schedule::<DynamicGated>("r", "0 * * * *", ()).await?;
    let worker = test.orchestrator().build()?.start().await?;
    eventually("the plan", || async {
        test.schedules().await.unwrap()[0].next_at.is_some()
    })
    .await;
    test.advance(HOUR).await?;
    gate.entered(1).await;
    let id = test.schedules().await?[0].last_execution.unwrap();
    assert!(test.cancel(id).await?);
    test.advance(HOUR).await?;
    gate.entered(1).await;
    gate.open(2);
    worker.stop().await?;
    assert_eq!(count(&test, "state = 'cancelled'").await?, 1);
    assert_eq!(count(&test, "true").await?, 2);
    Ok(())
}
