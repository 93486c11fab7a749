//! What schedules cost while nothing is due, and how punctual they are.

use std::time::Duration;

use conductor::Orchestrator;
use conductor::testing::TestConductor;

use super::{Tick, Ticking, tasks, ticks, word};
use crate::support::{Counted, eventually, run_sql};

const WATCHED: Duration = Duration::from_secs(12);

/// How often an idle worker has looked for ticks within a while.
async fn looks(test: &TestConductor) -> anyhow::Result<i64> {
    let before = Counted::connect(test)
        .await?
        .calls(test, "due_schedules")
        .await;
    let counted = Counted::connect(test).await?;
    let worker = Orchestrator::builder(counted.conductor.clone())
        .tasks(tasks())
        .build()?
        .start()
        .await?;
    tokio::time::sleep(WATCHED).await;
    worker.stop().await?;
    Ok(counted.calls(test, "due_schedules").await - before)
}

#[conductor::test]
async fn ten_thousand_schedules_cost_an_idle_worker_next_to_nothing(
    many: Ticking,
) -> anyhow::Result<()> {
    let none = Ticking::new().await?;
    for test in [&many, &none] {
        test.drain().await?;
        run_sql(test, "delete from conductor.schedules").await?;
    }
    run_sql(
        &many,
        r#"insert into conductor.schedules (task_id, name, dynamic, owner, cron, timezone, missed, overlap,
                                            payload, next_at, planned_from)
           select t.id, 'n ' || n, true, '', '0 0 1 1 *', 'UTC', 'once', 'allow', '{"word": "x"}',
                  conductor.now() + n * interval '1 hour', conductor.now()
             from conductor.tasks t, generate_series(1, 10000) as n where t.name = 'tick'"#,
    )
    .await?;
    let (with, without) = tokio::join!(looks(&many), looks(&none));
    let (with, without) = (with?, without?);
    println!("{with} looks in {WATCHED:?} with ten thousand schedules, {without} without");
    // One at the start, one each five seconds, one for each notification of the start.
    assert!((2..=8).contains(&with), "{with} against {without}");
    assert!((with - without).abs() <= 3, "{with} against {without}");
    Ok(())
}

#[conductor::test]
async fn a_tick_starts_on_time(test: Ticking) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    let mut seen = Vec::new();
    // A busy machine may spoil some.
    for tries in 1..=4 {
        let name = format!("try {tries}");
        test.schedule::<Tick>(&*name, "* * * * * *", word()).await?;
        eventually("some ticks", async || {
            ticks(&test, &name).await.unwrap().len() >= 7
        })
        .await;
        assert!(test.unschedule::<Tick>(&*name).await?);
        let mut late: Vec<f64> = sqlx::query_scalar(
            "select (extract(epoch from claimed_at - (trigger->>'scheduled_at')::timestamptz) * 1000)::float8
               from conductor.finished where trigger->>'name' = $1",
        )
        .bind(&name)
        .fetch_all(test.pool())
        .await?;
        late.sort_by(f64::total_cmp);
        println!("milliseconds from tick to claim: {late:.1?}");
        assert!(late[0] >= 0.0, "{late:?}");
        seen.push(late[late.len() / 2]);
        if seen.last() < Some(&100.0) {
            worker.stop().await?;
            return Ok(());
        }
    }
    panic!("half of all ticks start later than {seen:?} milliseconds");
}
