//! Many owed ticks, and schedules that somebody else holds.

use std::time::{Duration, Instant};

use conductor::Worker;
use conductor::testing::TestConductor;
use sqlx::{Connection, Executor};

use super::{HOUR, Tick, Ticking, ticks, word};
use crate::support::{eventually, number, run_sql, session, to_half_past};

/// Notes each call of `conductor.tick`: how many executions it was to make.
async fn note_calls(test: &TestConductor) {
    run_sql(
        test,
        "create table noted (executions integer);
         alter function conductor.tick rename to tick_itself;
         create function conductor.tick(
             p_ids bigint[], p_versions bigint[], p_next timestamptz[], p_faults text[],
             p_schedules bigint[], p_executions uuid[], p_at timestamptz[], p_payloads text[]) returns integer
         language plpgsql as $$
         begin
             insert into public.noted (executions) values (cardinality(p_executions));
             return conductor.tick_itself(p_ids, p_versions, p_next, p_faults,
                                          p_schedules, p_executions, p_at, p_payloads);
         end $$",
    )
    .await
    .unwrap();
}

#[conductor::test]
async fn a_large_debt_is_settled_in_portions(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    run_sql(
        &test,
        r#"insert into conductor.schedules (task_id, name, dynamic, owner, cron, timezone, missed, overlap,
                                            payload, next_at, planned_from)
           select t.id, 'n ' || n, true, '', '* * * * *', 'UTC', 'all', 'allow', '{"word": "x"}',
                  date_trunc('minute', conductor.now()) - interval '299 minutes', conductor.now()
             from conductor.tasks t, generate_series(1, 40) as n where t.name = 'tick'"#,
    )
    .await?;
    note_calls(&test).await;
    // It ticks, and runs nothing.
    let elsewhere = Worker::queue("elsewhere");
    let ticker = test.orchestrator().only_workers([elsewhere]).build()?;
    let ticker = ticker.start().await?;
    eventually("the last owed tick", async || {
        let owed = "select count(*) from conductor.schedules
                     where name like 'n %' and next_at <= conductor.now()";
        number(&test, owed).await == 0
    })
    .await;
    ticker.stop().await?;
    let most = number(&test, "select max(executions)::bigint from noted").await;
    assert!((1_000..=5_000).contains(&most), "{most}");
    let each = "select count(distinct trigger->>'scheduled_at') as ticks, count(*) as made,
                       max((trigger->>'scheduled_at')::timestamptz) - min((trigger->>'scheduled_at')::timestamptz)
                       as span
                  from conductor.executions where trigger->>'name' like 'n %' group by trigger->>'name'";
    let whole = format!(
        "select count(*) from ({each}) e
          where ticks = made and made >= 300 and span = (made - 1) * interval '1 minute'"
    );
    assert_eq!(number(&test, &whole).await, 40);
    Ok(())
}

#[conductor::test]
async fn who_finds_a_schedule_locked_asks_less_and_less(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    for name in ["held", "free"] {
        test.schedule::<Tick>(name, "0 * * * *", word()).await?;
    }
    test.drain().await?;
    note_calls(&test).await;
    let calls = async || number(&test, "select count(*) from noted").await;
    let mut holder = session(&test).await?;
    let worker = test.orchestrator().build()?.start().await?;
    for round in 1..=2 {
        let mut lock = holder.begin().await?;
        lock.execute("select from conductor.schedules where name = 'held' for update")
            .await?;
        let (before, began) = (calls().await, Instant::now());
        test.advance(HOUR).await?;
        // At first it asks again soon, also the second time.
        eventually("some tries", async || calls().await >= before + 5).await;
        let quick = began.elapsed();
        assert!(quick < Duration::from_secs(3), "{quick:?}");
        eventually("a while", async || began.elapsed() > Duration::from_secs(4)).await;
        let tried = calls().await - before;
        assert!(tried <= 14, "{tried} calls");
        assert!(ticks(&test, "held").await?.len() < round);
        // One that nobody holds waits for nothing.
        assert_eq!(ticks(&test, "free").await?.len(), round);
        lock.rollback().await?;
        eventually("the tick", async || {
            ticks(&test, "held").await.unwrap().len() == round
        })
        .await;
    }
    worker.stop().await?;
    Ok(())
}
