//! The SQL functions, as psql, triggers and other languages use them.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::support::{Role, left, number, run_sql, sqlstate};

#[task(name = "sql-greet", priority = 2, retry(max_attempts = 1))]
async fn sql_greet(_ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    Ok(format!("Hello, {name}!"))
}

#[task(name = "sql-nothing")]
async fn sql_nothing(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

async fn call<T>(pool: &PgPool, sql: &str) -> Result<T, sqlx::Error>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
}

/// A first drain makes the tasks known.
async fn declared(test: &TestConductor) -> &PgPool {
    test.drain().await.unwrap();
    test.pool()
}

#[conductor::test]
async fn an_invoke_in_sql_runs_the_task(test: TestConductor) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    let named = r#"select conductor.invoke('sql-greet', '{"name":"Alice"}')"#;
    let id: Uuid = call(pool, named).await?;
    let alone: Uuid = call(pool, "select conductor.invoke('sql-nothing')").await?;
    let null: Uuid = call(pool, "select conductor.invoke('sql-nothing', null)").await?;
    test.drain().await?;
    let result = test.execution::<SqlGreet>(id).result().await?;
    assert_eq!(result, "Hello, Alice!");
    test.execution::<SqlNothing>(alone).result().await?;
    test.execution::<SqlNothing>(null).result().await?;
    Ok(())
}

#[conductor::test]
async fn a_sleeping_worker_wakes_for_an_invoke_in_sql(test: TestConductor) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    let sql = r#"select conductor.invoke('sql-greet', '{"name":"Bob"}')"#;
    let id: Uuid = call(test.pool(), sql).await?;
    let result = test.execution::<SqlGreet>(id).result().await?;
    assert_eq!(result, "Hello, Bob!");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn arguments_may_be_named(test: TestConductor) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    let id: Uuid = call(
        pool,
        "select conductor.invoke('sql-nothing', delay => '1 hour 30 minutes', priority => -7)",
    )
    .await?;
    let info = test.find(id).await?.unwrap();
    let wait = info.run_at.unwrap() - info.created_at;
    assert_eq!((wait.num_milliseconds(), info.priority), (5_400_000, -7));

    let id: Uuid = call(
        pool,
        "select conductor.invoke(task => 'sql-greet', run_at => '2040-05-06 07:08:09+00',
                                 payload => jsonb_build_object('name', 'Eve'))",
    )
    .await?;
    let info = test.find(id).await?.unwrap();
    assert_eq!(
        info.run_at.unwrap().to_rfc3339(),
        "2040-05-06T07:08:09+00:00"
    );
    assert_eq!(info.priority, 2);
    Ok(())
}

#[conductor::test]
async fn a_trigger_may_invoke(test: TestConductor) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    run_sql(
        &test,
        "create table public.users (name text);
         create function public.greet_user() returns trigger language plpgsql as $$
         begin
             perform conductor.invoke('sql-greet', to_jsonb(new));
             return new;
         end $$;
         create trigger greet after insert on public.users
         for each row execute function public.greet_user();
         insert into public.users select 'user ' || n from generate_series(1, 100) n",
    )
    .await?;
    test.drain().await?;
    let greeted = "select count(*) from conductor.executions
                    where task = 'sql-greet' and output #>> '{}' like 'Hello, user %!'";
    assert_eq!(call::<i64>(pool, greeted).await?, 100);
    Ok(())
}

#[conductor::test]
async fn mistakes_are_refused_with_a_code(test: TestConductor) -> anyhow::Result<()> {
    let refused = async |sql: &'static str| {
        let error = call::<Uuid>(test.pool(), sql).await.unwrap_err();
        let db = error
            .as_database_error()
            .unwrap()
            .downcast_ref::<sqlx::postgres::PgDatabaseError>();
        (
            db.code().to_owned(),
            db.message().to_owned(),
            db.hint().unwrap_or_default().to_owned(),
        )
    };
    let (code, message, hint) = refused("select conductor.invoke('sql-great')").await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("CD001", "unknown task \"sql-great\"")
    );
    assert!(hint.contains("start a worker once"), "{hint}");
    declared(&test).await;
    run_sql(
        &test,
        "delete from conductor.tasks where name not like 'sql-%'",
    )
    .await?;
    let (code, _, hint) = refused("select conductor.invoke('SQL-greet')").await;
    assert_eq!(code, "CD001");
    assert_eq!(hint, "Known tasks: sql-greet, sql-nothing.");
    let (code, message, _) = refused("select conductor.invoke(null)").await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("CD002", "the task's name is null")
    );
    for times in [
        "run_at => 'infinity'",
        "run_at => '-infinity'",
        "run_at => '10000-01-01'",
        "run_at => '0044-03-15 BC'",
        "delay => '2000 years'",
        "delay => '-1 second'",
    ] {
        let sql = format!("select conductor.invoke('sql-nothing', {times})");
        let error = call::<Uuid>(test.pool(), &sql).await.unwrap_err();
        assert_eq!(
            sqlstate(&error).as_deref(),
            Some("CD002"),
            "{times}: {error}"
        );
    }
    assert_eq!(
        number(&test, "select count(*) from conductor.live_executions").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn a_payload_of_the_wrong_type_waits_for_a_build_that_can_read_it(
    test: TestConductor,
) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    for (payload, reason) in [
        (
            "{\"name\":5}",
            "invalid type: integer `5`, expected a string",
        ),
        ("{}", "missing field `name`"),
        ("null", "invalid type: null"),
        ("[]", "invalid length 0"),
    ] {
        let sql = format!("select conductor.invoke('sql-greet', '{payload}')");
        let id: Uuid = call(pool, &sql).await?;
        test.drain().await?;
        let text = left(&test, id).await?;
        assert!(text.contains("cannot read its payload"), "{text}");
        assert!(text.contains(reason), "{payload}: {text}");
    }
    Ok(())
}

#[conductor::test]
async fn an_execution_is_cancelled_and_retried_in_sql(test: TestConductor) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    let sql = r#"select conductor.invoke('sql-greet', '{"name":"Ann"}', delay => '1 hour')"#;
    let id: Uuid = call(pool, sql).await?;
    let cancel = format!("select conductor.cancel('{id}', reason => 'not needed')");
    assert!(call::<bool>(pool, &cancel).await?);
    assert!(!call::<bool>(pool, &cancel).await?);
    let ended = test.execution::<SqlGreet>(id).result().await;
    assert!(
        matches!(&ended, Err(Error::Cancelled { reason: Some(r), .. }) if r == "not needed"),
        "{ended:?}"
    );

    let retry = format!("select conductor.retry('{id}')");
    let again: Uuid = call(pool, &retry).await?;
    assert_ne!(again, id);
    assert_eq!(test.find(again).await?.unwrap().retry_of, Some(id));
    test.drain().await?;
    let result = test.execution::<SqlGreet>(again).result().await?;
    assert_eq!(result, "Hello, Ann!");
    assert_eq!(
        test.execution::<SqlGreet>(id).status().await?,
        Status::Cancelled
    );
    let retry = format!("select conductor.retry('{again}')");
    assert_eq!(call::<Option<Uuid>>(pool, &retry).await?, None);

    // One that waits keeps its id and is due.
    let waiting: Uuid = call(pool, sql).await?;
    let retry = format!("select conductor.retry('{waiting}')");
    assert_eq!(call::<Uuid>(pool, &retry).await?, waiting);
    test.drain().await?;
    test.execution::<SqlGreet>(waiting).result().await?;
    Ok(())
}

#[conductor::test]
async fn ids_are_uuids_of_version_7_in_the_order_of_time(
    test: TestConductor,
) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    let began = chrono::Utc::now().timestamp_millis();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(call::<Uuid>(pool, "select conductor.invoke('sql-nothing')").await?);
    }
    assert!(ids.is_sorted(), "{ids:#?}");
    ids.push(test.invoke::<SqlNothing>(()).await?.id());
    let ended = chrono::Utc::now().timestamp_millis();
    for id in &ids {
        assert_eq!(id.get_version_num(), 7, "{id}");
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122, "{id}");
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        let millis = i64::try_from(seconds)? * 1000 + i64::from(nanos) / 1_000_000;
        assert!((began..=ended).contains(&millis), "{id}");
    }
    Ok(())
}

#[conductor::test]
async fn a_role_may_be_allowed_to_invoke_and_nothing_else(
    test: TestConductor,
) -> anyhow::Result<()> {
    declared(&test).await;
    let role = Role::new(&test).await;
    role.owner_runs(
        &test,
        "grant usage on schema conductor to {role};
         grant execute on function conductor.invoke to {role}",
    )
    .await;
    let pool = role.pool();
    let sql = r#"select conductor.invoke('sql-greet', '{"name":"Alice"}')"#;
    let id: Uuid = call(&pool, sql).await?;

    for refused in [
        "select count(*) from conductor.live_executions",
        "select count(*) from conductor.executions",
        "select name from conductor.tasks",
        "delete from conductor.live_executions",
        "select conductor.cancel(gen_random_uuid())",
        "select conductor.retry(gen_random_uuid())",
        "select conductor.watch(gen_random_uuid())",
        "select conductor.claim(1, 1, '{1}', 1, false)",
        "select conductor.complete('{}', '{}', '{}')",
        "select conductor.declare_tasks('[]', true)",
        "select conductor.advance_clock('1 hour')",
        "create table conductor.mine (x integer)",
    ] {
        let error = call::<i64>(&pool, refused).await.unwrap_err();
        assert_eq!(
            sqlstate(&error).as_deref(),
            Some("42501"),
            "{refused}: {error}"
        );
    }
    let allowed: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_catalog.pg_proc p
          where p.pronamespace = 'conductor'::regnamespace
            and has_function_privilege($1, p.oid, 'execute')
         union all
         select c.relname::text from pg_catalog.pg_class c
          where c.relnamespace = 'conductor'::regnamespace and c.relkind in ('r', 'v', 'p')
            and has_table_privilege($1, c.oid, 'select, insert, update, delete, truncate')",
    )
    .bind(&role.name)
    .fetch_all(test.pool())
    .await?;
    assert_eq!(allowed, ["invoke"]);
    pool.close().await;
    test.drain().await?;
    let result = test.execution::<SqlGreet>(id).result().await?;
    assert_eq!(result, "Hello, Alice!");
    Ok(())
}

/// The functions that run with the owner's rights look up nothing by the caller's path.
#[conductor::test]
async fn a_role_cannot_slip_its_own_functions_in(test: TestConductor) -> anyhow::Result<()> {
    let pinned = "select count(*) from pg_catalog.pg_proc p
                   where p.pronamespace = 'conductor'::regnamespace
                     -- Names in a body of the SQL standard's form were looked up when it was made.
                     and p.prosqlbody is null
                     and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)";
    assert_eq!(number(&test, pinned).await, 0);
    Ok(())
}

/// A call with a key, with these bounds of its arrays: what came of it, and the execution.
async fn keyed(pool: &PgPool, id: Uuid, from: u8, key: &str) -> anyhow::Result<(String, Uuid)> {
    let bounds = format!("[{from}:{from}]={{");
    let sql = format!(
        r#"select coalesce(r.came_of[1], 'as asked'), coalesce(r.ids[1], $1) from conductor.invoke_many(
            ('{bounds}' || $1 || '}}')::uuid[], '{bounds}sql-nothing}}', '{bounds}"null"}}', '{bounds}2099-01-01}}',
            '{bounds}null}}', '{bounds}7}}', false, false, '{bounds}{key}}}', '{bounds}null}}', '{bounds}null}}') r"#
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql))
        .bind(id)
        .fetch_one(pool)
        .await?)
}

#[conductor::test]
async fn one_call_with_a_key_is_made_once(test: TestConductor) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    let [first, second] = [Uuid::now_v7(), Uuid::now_v7()];
    let answer = |came_of: &str, id| (came_of.to_owned(), id);
    assert_eq!(keyed(pool, first, 1, "a").await?, answer("as asked", first));
    // The same call again, without a word that it was sent before.
    assert_eq!(keyed(pool, first, 1, "a").await?, answer("created", first));
    assert_eq!(
        keyed(pool, second, 1, "a").await?,
        answer("replaced", first)
    );
    assert_eq!(
        keyed(pool, second, 1, "a").await?,
        answer("replaced", first)
    );
    run_sql(
        &test,
        "update conductor.live_executions set run_at = conductor.now()",
    )
    .await?;
    test.drain().await?;
    // Its key is free, and it has ended.
    assert_eq!(keyed(pool, first, 1, "a").await?, answer("created", first));
    let live = number(&test, "select count(*) from conductor.live_executions").await;
    assert_eq!(live, 0);
    Ok(())
}

#[conductor::test]
async fn one_call_with_a_key_may_have_arrays_with_any_bounds(
    test: TestConductor,
) -> anyhow::Result<()> {
    let pool = declared(&test).await;
    for from in [0, 1, 2] {
        let id = Uuid::now_v7();
        keyed(pool, id, from, &format!("from-{from}")).await?;
        let stored = sqlx::query_as::<_, (String, i32, String)>(
            "select l.run_at::date::text, l.priority, l.dedupe_key from conductor.live_executions l where l.id = $1",
        )
        .bind(id)
        .fetch_one(pool)
        .await?;
        assert_eq!(stored, ("2099-01-01".to_owned(), 7, format!("from-{from}")));
    }
    Ok(())
}
