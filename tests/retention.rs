//! What is past its time goes, in small portions, by one process of the cluster at a time.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Status};
use sqlx::Connection;
use tokio::task::JoinSet;

use crate::support::{count, declare, eventually, number, run_sql, session, size};

const DAY: Duration = Duration::from_secs(86_400);

#[task(name = "kept-not", keep(completed = "0s", failed = "0s"))]
async fn kept_not(ctx: &TaskContext, fails: bool) -> anyhow::Result<()> {
    ctx.step("noted", || async { anyhow::Ok(1) }).await?;
    if fails {
        Err(anyhow::anyhow!("no")).permanent()?;
    }
    Ok(())
}

#[task(
    name = "kept-long",
    keep(completed = "100 years", failed = "100 years")
)]
async fn kept_long(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "kept-usually")]
async fn kept_usually(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

async fn pruned(test: &TestConductor, portion: i32) -> anyhow::Result<i32> {
    Ok(sqlx::query_scalar("select conductor.prune($1)")
        .bind(portion)
        .fetch_one(test.pool())
        .await?)
}

async fn records(test: &TestConductor) -> i64 {
    number(
        test,
        "select (select count(*) from conductor.steps) + (select count(*) from conductor.failures)
              + (select count(*) from conductor.waits) + (select count(*) from conductor.remains)",
    )
    .await
}

/// An orchestrator that looks often whether something is due.
async fn eager(test: &TestConductor) -> anyhow::Result<conductor::Handle> {
    Ok(test
        .orchestrator()
        .allow_unserved_queues()
        .worker(crate::support::narrow(5))
        .heartbeat(Duration::from_millis(50), Duration::from_secs(15))
        .state(Conductor::clone(test))
        .build()?
        .start()
        .await?)
}

#[conductor::test]
async fn what_is_not_kept_goes_at_once_with_all_of_it(test: TestConductor) -> anyhow::Result<()> {
    for fails in [false, true] {
        test.invoke::<KeptNot>(KeptNot { fails }).await?;
    }
    test.drain().await?;
    assert!(records(&test).await >= 3);
    pruned(&test, 100).await?;
    assert_eq!(count(&test, "true").await?, 0);
    assert_eq!(records(&test).await, 0);
    Ok(())
}

#[conductor::test]
async fn a_very_long_keep_is_one(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<KeptLong>(()).await?;
    test.drain().await?;
    test.advance(DAY * 36_500).await?;
    pruned(&test, 100).await?;
    assert_eq!(run.status().await?, Status::Completed);
    test.advance(DAY * 100).await?;
    pruned(&test, 100).await?;
    assert!(test.find(run.id()).await?.is_none());
    // Said by hand, for ever: no point in time overflows.
    run_sql(
        &test,
        "select conductor.declare_tasks(jsonb_agg(to_jsonb(d)), true) from (
             select 'kept-for-ever' as name, 'default' as queue, 'p' as package, '' as place, '' as docs,
                    0 as priority, 1 as max_attempts, 1 as backoff_initial_ms, 1 as backoff_max_ms, 0 as jitter,
                    1.8e19 as keep_completed_ms, 1.8e19 as keep_failed_ms, true as payload_schema,
                    true as output_schema) d;
         select conductor.cancel(conductor.invoke('kept-for-ever'))",
    )
    .await?;
    assert_eq!(
        count(&test, "task = 'kept-for-ever' and state = 'cancelled'").await?,
        1
    );
    Ok(())
}

async fn is_there(test: &TestConductor, run: &Execution<KeptUsually>) -> bool {
    test.find(run.id()).await.unwrap().is_some()
}

#[conductor::test]
async fn retention_follows_the_clock_in_drains(test: TestConductor) -> anyhow::Result<()> {
    let early = test.invoke::<KeptUsually>(()).await?;
    let kept_not = test.invoke::<KeptNot>(KeptNot { fails: false }).await?;
    test.drain().await?;
    // What the drain has done can be looked at, however short it is kept.
    assert_eq!(kept_not.status().await?, Status::Completed);
    test.advance(DAY * 6).await?;
    let late = test.invoke::<KeptUsually>(()).await?;
    test.drain().await?;
    assert!(is_there(&test, &early).await && is_there(&test, &late).await);
    assert!(test.find(kept_not.id()).await?.is_none());
    for (days, late_is_there) in [(2, true), (5, false)] {
        test.advance(DAY * days).await?;
        test.drain().await?;
        assert!(!is_there(&test, &early).await);
        assert_eq!(is_there(&test, &late).await, late_is_there);
    }
    assert_eq!(records(&test).await, 0);
    Ok(())
}

#[conductor::test]
async fn retention_follows_the_clock_in_a_worker_that_lives(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = crate::support::start_with(&test, 5, ()).await?;
    for _ in 0..2 {
        let run = test.invoke::<KeptUsually>(()).await?;
        run.result().await?;
        test.advance(DAY * 8).await?;
        eventually("its removal", || async { !is_there(&test, &run).await }).await;
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn an_execution_with_many_records_goes_in_portions(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.invoke::<KeptNot>(KeptNot { fails: false }).await?;
    test.drain().await?;
    run_sql(
        &test,
        "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         select f.id, 'k' || n, 'step', '1', now() from conductor.finished_executions f, generate_series(1, 250) n",
    )
    .await?;
    // Ten records for each execution of a portion.
    assert!(pruned(&test, 10).await? >= 1);
    // Nobody can repeat it any more, although some of its records are still there.
    assert_eq!(count(&test, "true").await?, 0);
    assert_eq!(
        number(&test, "select count(*) from conductor.remains").await,
        1
    );
    let left = records(&test).await;
    assert!((1..=153).contains(&left), "{left}");
    while pruned(&test, 10).await? >= 10 {}
    assert_eq!(records(&test).await, 0);
    Ok(())
}

#[conductor::test]
async fn records_without_an_execution_are_swept(test: TestConductor) -> anyhow::Result<()> {
    let kept = test.invoke::<KeptLong>(()).await?;
    test.drain().await?;
    let live = test.invoke::<KeptLong>(()).await?;
    run_sql(
        &test,
        &format!(
            "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
             select id, k, 'step', '1', now()
               from unnest(array['{}', '{}']::uuid[]) as id, unnest(array['a', 'b', 'c']) as k;
             insert into conductor.steps (execution_id, key, kind, value, recorded_at)
             select gen_random_uuid(), k, 'step', '1', now() from generate_series(1, 50), unnest(array['a', 'b']) as k;
             insert into conductor.failures (execution_id, attempt, failed_at, error)
             select gen_random_uuid(), 1, now(), 'x' from generate_series(1, 7);
             insert into conductor.waits (execution_id, key, kind, group_key)
             select gen_random_uuid(), 'a', 'sleep', 'a' from generate_series(1, 7)",
            kept.id(),
            live.id()
        ),
    )
    .await?;
    let mut position: Option<uuid::Uuid> = None;
    let mut looks = 0;
    loop {
        position = sqlx::query_scalar("select conductor.sweep($1, 5)")
            .bind(position)
            .fetch_one(test.pool())
            .await?;
        looks += 1;
        if position.is_none() {
            break;
        }
    }
    assert!(looks > 10, "{looks}");
    assert_eq!(
        number(&test, "select count(*) from conductor.remains").await,
        114
    );
    while pruned(&test, 20).await? >= 20 {}
    assert_eq!(records(&test).await, 6);
    Ok(())
}

#[conductor::test]
async fn one_of_many_does_a_chore_and_another_after_its_death(
    test: TestConductor,
) -> anyhow::Result<()> {
    let take = "select count(*) from conductor.take_chore('prune', '1 hour')";
    let due = "update conductor.chores set due_at = clock_timestamp() where name = 'prune'";
    // That of a new schema is due in a minute.
    run_sql(&test, due).await?;
    let mut takers = JoinSet::new();
    for _ in 0..10 {
        let conductor = Conductor::clone(&test);
        takers.spawn(async move { number(&conductor, take).await });
    }
    assert_eq!(takers.join_all().await.iter().sum::<i64>(), 1);
    // Whoever has it and dies is no loss: it is due again.
    run_sql(
        &test,
        "update conductor.chores set due_at = clock_timestamp() where name = 'prune'",
    )
    .await?;
    assert_eq!(number(&test, take).await, 1);
    // Who is about to take it is not waited for.
    run_sql(
        &test,
        "update conductor.chores set due_at = clock_timestamp() where name = 'prune'",
    )
    .await?;
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    sqlx::query(take).execute(&mut *tx).await?;
    assert_eq!(number(&test, take).await, 0);
    tx.rollback().await?;
    assert_eq!(number(&test, take).await, 1);
    Ok(())
}

#[conductor::test]
async fn a_schedule_that_is_over_goes_and_one_that_is_not_stays(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.schedule::<KeptUsually>("yearly", "0 0 9 1 1 *", ())
        .await?;
    // Programs refuse such a rule; SQL cannot read it.
    run_sql(
        &test,
        "select conductor.schedule('kept-usually', 'over', '0 0 9 1 1 * 2020')",
    )
    .await?;
    let worker = eager(&test).await?;
    let over = "select count(*) from conductor.schedules where next_at = 'infinity'";
    eventually("the rule is found to be over", || async {
        number(&test, over).await == 1
    })
    .await;
    worker.stop().await?;
    pruned(&test, 100).await?;
    assert_eq!(number(&test, over).await, 1);
    test.advance(DAY * 8).await?;
    pruned(&test, 100).await?;
    let names: Vec<String> = test
        .schedules()
        .await?
        .into_iter()
        .filter(|schedule| schedule.task == "kept-usually")
        .map(|schedule| schedule.name)
        .collect();
    assert_eq!(names, ["yearly"]);
    Ok(())
}

/// Two orchestrators remove 40,000 rows (200,000 in `just nightly`) while others work. They hold no lock that the work
/// would wait for.
#[conductor::test]
async fn a_deep_history_is_removed_beside_the_work(test: TestConductor) -> anyhow::Result<()> {
    declare(&test, "old-task").await?;
    run_sql(
        &test,
        &"insert into conductor.finished_executions (
             id, created_at, finished_at, expires_at, queue_id, task_id, priority, claim, failures, crashes,
             state, payload)
         select gen_random_uuid(), now(), now(), now() - n * interval '1 ms', t.queue_id, t.id, 0, 1, 0, 0,
                'completed', '{}'
           from conductor.tasks t, generate_series(1, {rows}) n where t.name = 'old-task';
         insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         select f.id, 'a', 'step', '1', now() from conductor.finished_executions f;
         analyze conductor.finished_executions; analyze conductor.steps"
        .replace("{rows}", &size(40_000, 200_000).to_string()),
    )
    .await?;
    let workers = [eager(&test).await?, eager(&test).await?];
    let rows = "select count(*) from conductor.finished_executions where expires_at < now()";
    let mut worked = 0;
    while number(&test, rows).await > 0 {
        // Locks of the pruner's that anybody could wait for.
        let strong = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
                       where c.relnamespace = 'conductor'::regnamespace
                         and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
                         and l.pid in (select pid from pg_stat_activity where query like '%prune_finished%')";
        assert_eq!(number(&test, strong).await, 0);
        let run = test.invoke::<KeptLong>(()).await?;
        run.result().await?;
        worked += 1;
    }
    assert!(worked > 3, "{worked}");
    eventually("the records", || async { records(&test).await == 0 }).await;
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}
