//! What schedules cost while nothing is due, and how punctual they are.

use std::time::{Duration, Instant};

use conductor::testing::TestConductor;

use super::support::{eventually, number, run_sql};
use super::{ticks, word};
use crate::Tick;

const WATCHED: Duration = Duration::from_secs(8);

async fn commits(test: &TestConductor) -> i64 {
    number(
        test,
        "select xact_commit from pg_stat_database where datname = current_database()",
    )
    .await
}

/// How many transactions an idle worker makes in a while.
async fn idle(test: &TestConductor) -> anyhow::Result<i64> {
    let worker = test.orchestrator().build()?.start().await?;
    // The first looks, and what the server has not counted yet.
    let began = Instant::now();
    eventually("rest", async || began.elapsed() > Duration::from_secs(2)).await;
    let (before, began) = (commits(test).await, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let made = commits(test).await - before;
    let passed = began.elapsed().as_secs_f64() / WATCHED.as_secs_f64();
    worker.stop().await?;
    Ok((made as f64 / passed) as i64)
}

#[conductor::test]
async fn ten_thousand_schedules_cost_an_idle_worker_next_to_nothing(
    many: TestConductor,
) -> anyhow::Result<()> {
    let none = TestConductor::new().await?;
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
    let (with, without) = tokio::join!(idle(&many), idle(&none));
    let (with, without) = (with?, without?);
    println!("{with} commits in {WATCHED:?} with ten thousand schedules, {without} without");
    // What the server counts late and its own vacuum blur it; a look too often would be hundreds.
    assert!(with <= without + 40, "{with} against {without}");
    Ok(())
}

#[conductor::test]
async fn a_tick_starts_on_time(test: TestConductor) -> anyhow::Result<()> {
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
