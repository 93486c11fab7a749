//! What one claim, suspension or dispatch does for events is bounded, whatever has gathered.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::{number, run_sql, session};

/// Something that waits; the tests write what it waits for.
#[task(name = "bounds.sleeps")]
async fn sleeps(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.sleep("pause", Duration::from_secs(3600)).await?;
    Ok(())
}

async fn one(test: &TestConductor) -> anyhow::Result<Uuid> {
    let run = test.invoke::<Sleeps>(()).await?;
    test.drain().await?;
    Ok(run.id())
}

/// Quadratic work is cut off, and a busy machine is not.
async fn patient(test: &TestConductor) -> anyhow::Result<PgConnection> {
    let mut session = session(test).await?;
    sqlx::raw_sql("set statement_timeout = '30s'")
        .execute(&mut session)
        .await?;
    Ok(session)
}

const ANY: &str = "null::text";
const FIELD: &str = "json_build_object('op', 'eq', 'path', array['n'], 'value', n)::text";

/// As a worker sends it: waits for events of a name.
async fn suspend(
    session: &mut PgConnection,
    id: Uuid,
    waits: i32,
    filter: &str,
) -> anyhow::Result<()> {
    let sql = format!(
        "update conductor.live_executions set state = 'running', claim = 7 where id = '{id}';
         select conductor.suspend(array['{id}'::uuid], array[7], array_agg('{id}'::uuid), array_agg('wait ' || n),
                array_agg('event'::text), array_agg('wait ' || n), array_agg(1000::bigint),
                array_agg(null::timestamptz), array_agg(null::uuid), array_agg(null::text), array_agg(null::text),
                array_agg(false), array_agg('bounds.many'::text),
                array_agg({filter})) from generate_series(1, {waits}) n"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(session).await?;
    Ok(())
}

#[conductor::test]
async fn twenty_thousand_waits_of_one_execution(test: TestConductor) -> anyhow::Result<()> {
    let id = one(&test).await?;
    let mut session = patient(&test).await?;
    suspend(&mut session, id, 20_000, ANY).await?;
    let waits = "select count(*) from conductor.waits where kind = 'event'";
    assert_eq!(number(&test, waits).await, 20_000);
    test.advance(Duration::from_secs(60)).await?;
    // Each claim ends some of them, those whose time was over first; and it is due again at once.
    let settle = format!("select conductor.settle(array['{id}'::uuid], conductor.now())");
    let mut left = 20_000;
    let mut claims = 0;
    while left > 0 {
        sqlx::raw_sql(AssertSqlSafe(settle.clone()))
            .execute(&mut session)
            .await?;
        let now = number(&test, waits).await;
        assert!((1..=5000).contains(&(left - now)), "{left}, then {now}");
        left = now;
        claims += 1;
        if claims == 1 {
            suspend(&mut session, id, 20_000, ANY).await?;
            let due =
                "select count(*) from conductor.live_executions where run_at <= conductor.now()";
            assert_eq!(number(&test, due).await, 1);
        }
    }
    let over = "select count(*) from conductor.steps where value->>'state' = 'timed_out'";
    assert_eq!(number(&test, over).await, 20_000);
    Ok(())
}

/// What `explain` says that a statement reads, in blocks.
async fn blocks(session: &mut PgConnection, sql: &str) -> anyhow::Result<u64> {
    let sql = format!("explain (analyze, buffers, format json) {sql}");
    let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(session)
        .await?;
    let read = |name: &str| plan[0]["Plan"][name].as_u64().unwrap();
    Ok(read("Shared Hit Blocks") + read("Shared Read Blocks"))
}

#[conductor::test]
async fn records_of_events_are_not_read_to_look_back(test: TestConductor) -> anyhow::Result<()> {
    let id = one(&test).await?;
    // A wait takes each of them, and each record is out of line.
    run_sql(
        &test,
        &format!(
            "insert into conductor.waits (execution_id, key, kind, group_key, event_name)
             select '{id}', 'got ' || n, 'event', 'got', 'bounds.many' from generate_series(1, 100) n;
             alter table conductor.steps alter value set storage external"
        ),
    )
    .await?;
    for _ in 0..10 {
        run_sql(
            &test,
            "select conductor.emit_many(array_agg(conductor.uuid7()), array_agg('bounds.many'::text),
                    array_agg(json_build_object('n', 0, 'text', repeat('x', 100000))::text), false)
               from generate_series(1, 10)",
        )
        .await?;
    }
    while number(&test, "select count(*) from conductor.event_deliveries").await > 0 {
        run_sql(&test, "select conductor.dispatch(1000)").await?;
    }
    let got = "select count(*) from conductor.steps where kind = 'event'";
    assert_eq!(number(&test, got).await, 100);
    let mut session = session(&test).await?;
    suspend(&mut session, id, 10, FIELD).await?;
    test.advance(Duration::from_secs(60)).await?;
    let settle = format!("select conductor.settle(array['{id}'::uuid], conductor.now())");
    let read = blocks(&mut session, &settle).await?;
    // The records have 1,250 blocks; each of ten waits read them twice.
    assert!(read < 4000, "{read} blocks");
    let over = "select count(*) from conductor.steps where value->>'state' = 'timed_out'";
    assert_eq!(number(&test, over).await, 10);
    Ok(())
}

/// Executions that were locked when an event of this name came, and so many events before it.
async fn missed(test: &TestConductor, executions: i32, events: i32) -> anyhow::Result<()> {
    for _ in 0..executions {
        test.invoke::<Sleeps>(()).await?;
    }
    test.drain().await?;
    run_sql(
        test,
        &format!(
            "insert into conductor.waits (execution_id, key, kind, group_key, event_name, event_filter)
             select l.id, 'event', 'event', 'event', 'bounds.many', '{{\"op\": \"gt\", \"path\": [\"n\"], \"value\": 1e9}}'
               from conductor.live_executions l;
             select conductor.publish(array_agg(conductor.uuid7()), array_agg('bounds.many'::text),
                    array_agg(json_build_object('n', n)::text)) from generate_series(1, {events}) n;
             delete from conductor.event_deliveries;
             insert into conductor.event_revisits (execution_id, name, event_id)
             select l.id, 'bounds.many', (select e.id from conductor.events e order by e.seq limit 1)
               from conductor.live_executions l"
        ),
    )
    .await?;
    Ok(())
}

const REVISITS: &str = "select count(*) from conductor.event_revisits";

#[conductor::test]
async fn those_who_missed_events_look_back_in_portions(test: TestConductor) -> anyhow::Result<()> {
    missed(&test, 12, 4000).await?;
    let mut rounds = 0;
    let mut done = Some(false);
    while done == Some(false) {
        let before = number(&test, REVISITS).await;
        done = sqlx::query_scalar("select conductor.dispatch(1000)")
            .fetch_one(test.pool())
            .await?;
        // 10,000 events are those of two and a half.
        let looked = before - number(&test, REVISITS).await;
        assert!(looked <= 3, "{looked} at once");
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!(number(&test, REVISITS).await, 0);
    assert!(rounds >= 4, "{rounds} rounds");
    Ok(())
}

#[conductor::test]
async fn a_locked_execution_does_not_lock_its_event(test: TestConductor) -> anyhow::Result<()> {
    missed(&test, 1, 1).await?;
    let mut user = session(&test).await?;
    let mut locked = user.begin().await?;
    sqlx::query("select from conductor.live_executions for update")
        .execute(&mut *locked)
        .await?;
    let mut other = session(&test).await?;
    let mut open = other.begin().await?;
    sqlx::query("select conductor.revisit(10)")
        .execute(&mut *open)
        .await?;
    let free = "select count(*) from (
        select pg_try_advisory_xact_lock(hashtextextended('conductor.event bounds.many', 0)) as got) t where t.got";
    assert_eq!(number(&test, free).await, 1);
    open.rollback().await?;
    locked.rollback().await?;
    run_sql(&test, "select conductor.revisit(10)").await?;
    assert_eq!(number(&test, REVISITS).await, 0);
    Ok(())
}

#[conductor::test]
async fn a_name_that_is_locked_keeps_no_other_waiting(test: TestConductor) -> anyhow::Result<()> {
    let mut user = session(&test).await?;
    let mut locked = user.begin().await?;
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended('conductor.event bounds.locked ' || n, 0))
           from generate_series(1, 20) n",
    )
    .execute(&mut *locked)
    .await?;
    // Twenty names before the one that is free, and one of them with more than a dispatch takes.
    run_sql(
        &test,
        "select conductor.emit('bounds.locked 1') from generate_series(1, 1200);
         select conductor.emit('bounds.locked ' || n) from generate_series(2, 20) n;
         select conductor.emit('bounds.free')",
    )
    .await?;
    let dispatch = "select coalesce(conductor.dispatch(1000)::int::text, 'later')";
    sqlx::query(dispatch).execute(test.pool()).await?;
    let free = "select count(*) from conductor.events where name = 'bounds.free'";
    assert_eq!(number(&test, free).await, 1);
    // Nothing is to be had now, and it is said.
    let said: String = sqlx::query_scalar(dispatch).fetch_one(test.pool()).await?;
    assert_eq!(said, "later");
    locked.rollback().await?;
    for _ in 0..4 {
        sqlx::query(dispatch).execute(test.pool()).await?;
    }
    let all = "select count(*) from conductor.events";
    assert_eq!(number(&test, all).await, 1220);
    Ok(())
}

#[conductor::test]
async fn a_change_that_cannot_be_read_ends_a_wait_without_filter(
    test: TestConductor,
) -> anyhow::Result<()> {
    let id = one(&test).await?;
    run_sql(
        &test,
        &format!(
            r#"create table bounds_docs (id integer primary key, body json);
               select conductor.watch_rows('bounds_docs', 'insert', array['id', 'body'], null, true, '1 s');
               insert into conductor.waits (execution_id, key, kind, group_key, event_name, event_filter)
               select '{id}', w.key, 'row', w.key, r.event, w.filter
                 from conductor.row_watches r,
                      (values ('any', null::jsonb), ('some', '{{"op": "eq", "path": ["new", "id"], "value": 1}}'))
                      as w(key, filter);
               insert into bounds_docs values (1, '"\u0000"')"#
        ),
    )
    .await?;
    run_sql(&test, "select conductor.dispatch(1000)").await?;
    let ended = "select count(*) from conductor.steps where key = 'any' and kind = 'row'";
    assert_eq!(number(&test, ended).await, 1);
    let waits = "select count(*) from conductor.waits where key = 'some'";
    assert_eq!(number(&test, waits).await, 1);
    let faults = "select count(*) from conductor.row_faults";
    assert_eq!(number(&test, faults).await, 0);
    Ok(())
}

#[conductor::test]
async fn a_rule_that_cannot_work_costs_the_others_nothing(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(
        &test,
        "create table bounds_rows (id integer primary key, body text);
         select conductor.watch_rows('bounds_rows', 'insert', array['id'], null, true, '1 s');
         select conductor.watch_rows('bounds_rows', 'insert', array['body'], null, true, '1 s');
         alter table bounds_rows drop column body;
         insert into bounds_rows select generate_series(1, 10);
         insert into bounds_rows select generate_series(11, 20)",
    )
    .await?;
    let lie = "select count(*) from conductor.event_inbox";
    assert_eq!(number(&test, lie).await, 20);
    // A number that was taken and undone would be missing.
    assert_eq!(
        number(&test, "select max(n) from conductor.event_inbox").await,
        20
    );
    let faults = "select sum(times)::bigint from conductor.row_faults";
    assert_eq!(number(&test, faults).await, 2);
    Ok(())
}

#[conductor::test]
async fn keys_of_records_and_waits_count(test: TestConductor) -> anyhow::Result<()> {
    let id = one(&test).await?;
    let memo = format!(
        "select octet_length(conductor.memo('{id}', conductor.now(), 0))::bigint
              - (select coalesce(sum(s.bytes), 0) from conductor.steps s where s.execution_id = '{id}')
              - (select sum(octet_length(w.key) + 40) from conductor.waits w where w.execution_id = '{id}')"
    );
    run_sql(
        &test,
        &format!(
            "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
             select '{id}', n || repeat('k', 400), 'step', '1', conductor.now() from generate_series(1, 1000) n"
        ),
    )
    .await?;
    assert!(number(&test, &memo).await <= 0);
    run_sql(
        &test,
        &format!(
            "create or replace function conductor.most_records() returns bigint language sql immutable
             as 'select 600000::bigint';
             insert into conductor.waits (execution_id, key, kind, group_key)
             select '{id}', n || repeat('k', 400), 'sleep', 'k' from generate_series(1, 1000) n"
        ),
    )
    .await?;
    let said: String = sqlx::query_scalar("select conductor.memo($1, conductor.now(), 0)")
        .bind(id)
        .fetch_one(test.pool())
        .await?;
    assert!(said.len() < 100, "{} bytes", said.len());
    Ok(())
}

#[conductor::test]
async fn fields_that_nobody_asks_for_are_forgotten(test: TestConductor) -> anyhow::Result<()> {
    let day = Duration::from_secs(24 * 3600);
    let id = one(&test).await?;
    let mut session = session(&test).await?;
    suspend(&mut session, id, 1, FIELD).await?;
    let emit = "select conductor.emit_many(array[conductor.uuid7()], array['bounds.many'], array['{\"n\": 7}'], false)";
    run_sql(&test, emit).await?;
    let fields = "select count(*) from conductor.event_fields";
    let paths = "select count(*) from conductor.event_paths";
    assert_eq!(number(&test, fields).await, 1);
    // As long as somebody waits, it stays.
    for _ in 0..2 {
        test.advance(5 * day).await?;
        run_sql(&test, "select conductor.prune_events(1000)").await?;
        run_sql(&test, emit).await?;
    }
    assert_eq!(number(&test, fields).await, 2);
    run_sql(
        &test,
        "delete from conductor.waits where event_name is not null",
    )
    .await?;
    for _ in 0..2 {
        test.advance(5 * day).await?;
        run_sql(&test, "select conductor.prune_events(1000)").await?;
        run_sql(&test, emit).await?;
    }
    // Nothing is written for it any more, and whoever asks again is served from now on.
    let before = number(&test, fields).await;
    run_sql(&test, emit).await?;
    assert_eq!(number(&test, fields).await, before);
    for _ in 0..2 {
        test.advance(5 * day).await?;
        run_sql(&test, "select conductor.prune_events(1000)").await?;
    }
    assert_eq!(number(&test, paths).await, 0);
    assert_eq!(number(&test, fields).await, 0);
    Ok(())
}
