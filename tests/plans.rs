//! What a claim costs where most rows are not due; and that no plan depends on statistics.

mod explained;
mod lists;

use chrono::{DateTime, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use serde_json::Value;
use sqlx::{Connection, Row};
use uuid::Uuid;

use self::explained::{explained, tell_plans};
use crate::support::{eventually, number, run_sql, session};

#[task]
async fn plans_nothing(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

const DUE: &str = "select count(*) from conductor.live_executions where run_at <= conductor.now()";

async fn fill(test: &TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    run_sql(
        test,
        "insert into conductor.live_executions
             (id, run_at, created_at, queue_id, task_id, priority, payload)
         select conductor.uuid7(), conductor.now() + d.delay, conductor.now(), t.queue_id, t.id,
                d.priority, 'null'
           from conductor.tasks t,
                (select interval '1 day' + n * interval '1 second' as delay, n % 5 as priority
                   from generate_series(1, 200000) n
                  union all
                 select interval '-1 second', n % 2 from generate_series(1, 1000) n) d
          where t.name = 'plans_nothing';
         insert into conductor.orchestrators
             (host, pid, queue_ids, task_ids, started_at, lease_until)
         values ('here', 1, '{}', '{}', now(), now() + interval '1 hour')",
    )
    .await?;
    Ok(())
}

/// Explains one claim of 100 rows; its milliseconds and blocks.
async fn claim(test: &TestConductor) -> anyhow::Result<(f64, u64)> {
    let plan: Value = sqlx::query_scalar(
        "explain (analyze, buffers, format json)
         select * from conductor.claim(
             (select max(id) from conductor.orchestrators),
             (select queue_id from conductor.tasks where name = 'plans_nothing'),
             array(select id from conductor.tasks), 100, false)",
    )
    .fetch_one(test.pool())
    .await?;
    let blocks = ["Shared Hit Blocks", "Shared Read Blocks"]
        .map(|name| plan[0]["Plan"][name].as_u64().unwrap());
    Ok((
        plan[0]["Execution Time"].as_f64().unwrap(),
        blocks.iter().sum(),
    ))
}

/// The best of a few, as the machine may have other things to do.
async fn claims_are_cheap(test: &TestConductor) -> anyhow::Result<()> {
    let due = number(test, DUE).await;
    let mut costs = Vec::new();
    for _ in 0..4 {
        costs.push(claim(test).await?);
    }
    let running = "select count(*) from conductor.live_executions where state = 'running'";
    assert_eq!(number(test, running).await, 400 + 1000 - due);
    let most_blocks = costs.iter().map(|(_, blocks)| *blocks).max().unwrap();
    let least_ms = costs.iter().map(|(ms, _)| *ms).fold(f64::MAX, f64::min);
    assert!(most_blocks < 5000 && least_ms < 100.0, "{costs:?}");
    Ok(())
}

#[conductor::test]
async fn a_claim_does_not_walk_past_delayed_rows(test: TestConductor) -> anyhow::Result<()> {
    fill(&test).await?;
    claims_are_cheap(&test).await
}

#[conductor::test]
async fn a_claim_is_as_cheap_with_statistics(test: TestConductor) -> anyhow::Result<()> {
    fill(&test).await?;
    run_sql(&test, "vacuum analyze conductor.live_executions").await?;
    claims_are_cheap(&test).await
}

/// What the planner is made to believe of every table: rows and pages, as `pg_class` has them. Autovacuum
/// writes 0 rows into it between two bursts, and plans that are made then are kept.
#[derive(Clone, Copy, Debug)]
enum Statistics {
    /// As after `create table`.
    None,
    Rows(f32),
    /// Of what is there, all of it.
    Analyzed,
}

/// Tables of which a statement may read all.
const SMALL: [&str; 12] = [
    "clock",
    "event_types",
    "event_watches",
    "gone",
    "held",
    "limits",
    "orchestrators",
    "pg_class",
    "queues",
    "subscriptions",
    "tasks",
    "waiting",
];

/// Each hot statement with some 40 executions, beside 10,000 rows of everything.
async fn statements_read_little(test: TestConductor, statistics: Statistics) -> anyhow::Result<()> {
    let scene = include_str!("plans/scene.sql");
    run_sql(
        &test,
        "do $$ declare r record; begin
             for r in select c.relname from pg_class c
                       where c.relnamespace = 'conductor'::regnamespace and c.relkind = 'r' loop
                 execute format('alter table conductor.%I set (autovacuum_enabled = off)', r.relname);
             end loop;
         end $$",
    )
    .await?;
    run_sql(&test, include_str!("plans/background.sql")).await?;
    match statistics {
        Statistics::None => {}
        Statistics::Analyzed => run_sql(&test, "vacuum analyze").await?,
        Statistics::Rows(rows) => {
            let believe = format!(
                "update pg_class c set reltuples = {rows}, relpages = 1000
                  where c.relnamespace = 'conductor'::regnamespace and c.relkind in ('r', 'i')"
            );
            run_sql(&test, &believe).await?;
        }
    }
    // A session that has planned nothing yet.
    let mut session = session(&test).await?;
    let mut parts = scene.split("\n-- == ");
    sqlx::raw_sql(sqlx::AssertSqlSafe(parts.next().unwrap().to_owned()))
        .execute(&mut session)
        .await?;
    sqlx::raw_sql("set statement_timeout = '20s'")
        .execute(&mut session)
        .await?;
    assert!(tell_plans(&mut session).await, "auto_explain is missing");
    let mut seen = 0;
    for part in parts {
        let (name, sql) = part.split_once('\n').unwrap();
        let explained = explained(&mut session, sql).await?;
        assert!(
            explained.blocks < 6000,
            "{name}: {} blocks",
            explained.blocks
        );
        for read in &explained.reads {
            seen += 1;
            let small = SMALL.contains(&read.table.as_str());
            let whole = read.node.contains("Seq Scan");
            assert!(
                small || !whole && read.rows < 500.0,
                "{name}, {statistics:?}: {read}"
            );
        }
    }
    assert!(seen > 500, "only {seen} reads were told");
    Ok(())
}

#[conductor::test]
async fn statements_read_little_without_statistics(test: TestConductor) -> anyhow::Result<()> {
    statements_read_little(test, Statistics::None).await
}

#[conductor::test]
async fn statements_read_little_with_statistics_of_the_empty_tables(
    test: TestConductor,
) -> anyhow::Result<()> {
    statements_read_little(test, Statistics::Rows(0.0)).await
}

#[conductor::test]
async fn statements_read_little_with_statistics_of_tiny_tables(
    test: TestConductor,
) -> anyhow::Result<()> {
    statements_read_little(test, Statistics::Rows(3.0)).await
}

#[conductor::test]
async fn statements_read_little_with_statistics_of_huge_tables(
    test: TestConductor,
) -> anyhow::Result<()> {
    statements_read_little(test, Statistics::Rows(1e8)).await
}

#[conductor::test]
async fn statements_read_little_with_true_statistics(test: TestConductor) -> anyhow::Result<()> {
    statements_read_little(test, Statistics::Analyzed).await
}

/// Claims ten by SQL from where the look before ended; the blocks that this read, the ids, and where it ended.
/// For one task: the limits of each that a worker has are read as well, and other tests have hundreds.
async fn look(
    session: &mut sqlx::PgConnection,
    seen: &(Vec<i32>, Vec<Option<DateTime<Utc>>>),
) -> anyhow::Result<(u64, Vec<Uuid>, (Vec<i32>, Vec<Option<DateTime<Utc>>>))> {
    const CLAIM: &str = "conductor.claim(
        (select max(id) from conductor.orchestrators),
        (select queue_id from conductor.tasks where name = 'plans_nothing'),
        array(select id from conductor.tasks where name = 'plans_nothing'), 10, true, p_seen => $1, p_from => $2)";
    let explain = format!("explain (analyze, buffers, format json) select * from {CLAIM}");
    // The least of a few: planning, and what is loaded anew behind what other tests create, count as well.
    let mut least = u64::MAX;
    for _ in 0..4 {
        let mut tx = session.begin().await?;
        let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain.clone()))
            .bind(&seen.0)
            .bind(&seen.1)
            .fetch_one(&mut *tx)
            .await?;
        tx.rollback().await?;
        let blocks = ["Shared Hit Blocks", "Shared Read Blocks"]
            .map(|name| plan[0]["Plan"][name].as_u64().unwrap());
        least = least.min(blocks.iter().sum());
    }
    let claim = sqlx::AssertSqlSafe(format!("select id, seen, seen_from from {CLAIM}"));
    let rows = sqlx::query(claim)
        .bind(&seen.0)
        .bind(&seen.1)
        .fetch_all(session)
        .await?;
    let mut ids = Vec::new();
    let mut ended = (Vec::new(), Vec::new());
    for row in rows {
        match row.try_get(0)? {
            Some(id) => ids.push(id),
            None => ended = (row.try_get(1)?, row.try_get(2)?),
        }
    }
    Ok((least, ids, ended))
}

#[conductor::test]
async fn a_look_does_not_walk_over_what_runs_or_has_ended(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    let insert = "insert into conductor.live_executions
            (id, run_at, created_at, queue_id, task_id, priority, state, orchestrator_id, payload)
        select conductor.uuid7(), conductor.now() - interval '1 hour', conductor.now(), t.queue_id, t.id, 0,
               'STATE', 1, 'null' from conductor.tasks t, generate_series(1, 10000)
         where t.name = 'plans_nothing';";
    run_sql(
        &test,
        "insert into conductor.orchestrators (host, pid, queue_ids, task_ids, started_at, lease_until)
         values ('here', 1, '{}', '{}', now(), now() + interval '1 hour')",
    )
    .await?;
    run_sql(&test, &insert.replace("STATE", "pending")).await?;
    // Somebody's old snapshot, as of a dump, keeps the server from removing anything.
    let mut old = session(&test).await?;
    let mut old = old
        .begin_with("begin isolation level repeatable read")
        .await?;
    sqlx::query("select 1").execute(&mut *old).await?;
    run_sql(&test, "delete from conductor.live_executions").await?;
    run_sql(&test, &insert.replace("STATE", "running")).await?;

    let mut worker = session(&test).await?;
    let (whole, ids, seen) = look(&mut worker, &Default::default()).await?;
    assert!(ids.is_empty() && whole > 300, "{whole} blocks, {ids:?}");
    let (blocks, ids, seen) = look(&mut worker, &seen).await?;
    assert!(ids.is_empty() && blocks < 100, "{blocks} blocks, {ids:?}");

    // What is invoked is found, of whatever priority.
    let ours = test.invoke::<PlansNothing>(()).await?.id();
    let higher = test.invoke::<PlansNothing>(()).priority(7).await?.id();
    let lower = test.invoke::<PlansNothing>(()).priority(-7).await?.id();
    let (blocks, ids, seen) = look(&mut worker, &seen).await?;
    assert_eq!(ids, [higher, ours, lower]);
    assert!(blocks < 250, "{blocks} blocks");
    let (blocks, ids, _) = look(&mut worker, &seen).await?;
    assert!(ids.is_empty() && blocks < 150, "{blocks} blocks, {ids:?}");
    Ok(())
}

#[conductor::test]
async fn what_lies_before_the_place_where_a_look_begins_is_found(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = test
        .orchestrator()
        .allow_unserved_queues()
        .build()?
        .start()
        .await?;
    test.invoke::<PlansNothing>(()).await?.result().await?;
    // As one that was given back, without a word to anybody.
    run_sql(
        &test,
        "insert into conductor.live_executions (id, run_at, created_at, queue_id, task_id, priority, payload)
         select conductor.uuid7(), conductor.now() - interval '1 hour', conductor.now(), t.queue_id, t.id, 0, 'null'
           from conductor.tasks t where t.name = 'plans_nothing'",
    )
    .await?;
    eventually("its end", async || {
        number(&test, "select count(*) from conductor.live_executions").await == 0
    })
    .await;
    worker.stop().await?;
    Ok(())
}
