//! How the schema comes into a database, and how it does not.

use std::process::{Command, Stdio};
use std::str::FromStr;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Filter};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::task::JoinSet;

use crate::support::{Role, emptied, number, run_sql};

#[task]
async fn migrations_add(_ctx: &TaskContext, a: i64, b: i64) -> anyhow::Result<i64> {
    Ok(a + b)
}

const ADD: MigrationsAdd = MigrationsAdd { a: 1, b: 2 };
const PROCESS_URL: &str = "CONDUCTOR_TEST_MIGRATIONS_URL";

async fn works(client: &Conductor) -> anyhow::Result<()> {
    let run = client.invoke::<MigrationsAdd>(ADD).await?;
    Orchestrator::builder(client.clone())
        .build()?
        .drain()
        .await?;
    assert_eq!(run.result().await?, 3);
    Ok(())
}

async fn schema_error(url: &str) -> String {
    match Conductor::connect_to(url).await {
        Err(error @ Error::Schema(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn applied(test: &TestConductor) -> i64 {
    number(test, "select count(*) from conductor.migrations").await
}

#[conductor::test]
async fn ten_clients_at_once_find_an_empty_database(test: TestConductor) -> anyhow::Result<()> {
    let all = applied(&test).await;
    for _ in 0..3 {
        emptied(&test).await;
        let mut clients = JoinSet::new();
        for _ in 0..10 {
            let url = test.url().to_owned();
            clients.spawn(async move { Conductor::connect_to(&url).await });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        assert_eq!(applied(&test).await, all);
    }
    works(&Conductor::connect_to(test.url()).await?).await
}

/// What the next test starts; does nothing by itself.
#[tokio::test]
async fn a_process_that_connects() -> anyhow::Result<()> {
    if let Ok(url) = std::env::var(PROCESS_URL) {
        works(&Conductor::connect_to(&url).await?).await?;
    }
    Ok(())
}

#[conductor::test]
async fn ten_processes_at_once_find_an_empty_database(test: TestConductor) -> anyhow::Result<()> {
    emptied(&test).await;
    let processes: Vec<_> = (0..10)
        .map(|_| {
            Command::new(std::env::current_exe()?)
                .args(["--exact", "migrations::a_process_that_connects"])
                .env(PROCESS_URL, test.url())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        })
        .collect::<Result<_, _>>()?;
    for process in processes {
        let output = tokio::task::spawn_blocking(|| process.wait_with_output()).await??;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
    }
    let completed = "select count(*) from conductor.executions where state = 'completed'";
    assert_eq!(number(&test, completed).await, 10);
    Ok(())
}

#[conductor::test]
async fn ten_clients_at_once_in_a_serializable_database(test: TestConductor) -> anyhow::Result<()> {
    set_for_database(&test, "default_transaction_isolation = 'serializable'").await;
    for _ in 0..3 {
        emptied(&test).await;
        let mut clients = JoinSet::new();
        for _ in 0..10 {
            let url = test.url().to_owned();
            clients.spawn(async move { Conductor::connect_to(&url).await });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
    }
    Ok(())
}

#[conductor::test]
async fn a_second_migrate_changes_nothing(test: TestConductor) -> anyhow::Result<()> {
    let rows = "select array_agg((id, checksum, applied_at, xmin)::text order by id)
                  from conductor.migrations";
    let before: Vec<String> = sqlx::query_scalar(rows).fetch_one(test.pool()).await?;
    Conductor::connect_to(test.url()).await?.migrate().await?;
    test.migrate().await?;
    let after: Vec<String> = sqlx::query_scalar(rows).fetch_one(test.pool()).await?;
    assert_eq!(before, after);
    Ok(())
}

#[conductor::test]
async fn a_newer_schema_is_left_alone(test: TestConductor) -> anyhow::Result<()> {
    let known = applied(&test).await;
    run_sql(
        &test,
        "insert into conductor.migrations (id, name, checksum) values (999, 'later', 'x')",
    )
    .await?;
    let text = schema_error(test.url()).await;
    assert!(
        text.contains("999") && text.contains(&known.to_string()),
        "{text}"
    );
    assert!(text.contains("newer build"), "{text}");
    assert_eq!(applied(&test).await, known + 1);
    Ok(())
}

#[conductor::test]
async fn a_changed_migration_is_refused(test: TestConductor) -> anyhow::Result<()> {
    run_sql(
        &test,
        "update conductor.migrations set checksum = md5('x') where id = 2",
    )
    .await?;
    let text = schema_error(test.url()).await;
    assert!(text.contains("migration 2"), "{text}");
    Ok(())
}

#[conductor::test]
async fn a_role_that_may_not_create_is_told_what_to_grant(
    test: TestConductor,
) -> anyhow::Result<()> {
    emptied(&test).await;
    let role = Role::new(&test).await;
    let refused = Conductor::from_pool(role.pool()).migrate().await;
    let text = refused.unwrap_err().to_string();
    for part in [
        "schema",
        "may not create",
        "permission denied",
        "grant create on database",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let schemas = "select count(*) from pg_namespace where nspname = 'conductor'";
    assert_eq!(number(&test, schemas).await, 0);

    let database: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(test.pool())
        .await?;
    let grant = format!("grant create on database {database} to {{role}}");
    role.owner_runs(&test, &grant).await;
    works(&Conductor::from_pool(role.pool())).await
}

#[conductor::test]
async fn a_schema_of_another_owner_is_not_touched(test: TestConductor) -> anyhow::Result<()> {
    emptied(&test).await;
    run_sql(&test, "create schema conductor").await?;
    let role = Role::new(&test).await;
    role.owner_runs(&test, "grant usage on schema conductor to {role}")
        .await;
    let refused = Conductor::from_pool(role.pool()).migrate().await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("permission denied"), "{text}");
    let tables = "select count(*) from pg_class where relnamespace = 'conductor'::regnamespace";
    assert_eq!(number(&test, tables).await, 0);
    works(&Conductor::connect_to(test.url()).await?).await
}

#[conductor::test]
async fn functions_that_a_superuser_applies_belong_to_the_owner_of_the_schema(
    test: TestConductor,
) -> anyhow::Result<()> {
    emptied(&test).await;
    let role = Role::new(&test).await;
    let database: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(test.pool())
        .await?;
    let grant = format!("grant create on database {database} to {{role}}");
    role.owner_runs(&test, &grant).await;
    let client = Conductor::from_pool(role.pool());
    works(&client).await?;
    // As a later build that has split a function.
    run_sql(
        &test,
        "update conductor.function_set set checksum = 'another';
         drop function conductor.invoke_one, conductor.invoke_new, conductor.invoke_again",
    )
    .await?;
    Conductor::connect_to(test.url()).await?;
    let owners = "select count(distinct proowner) from pg_proc where pronamespace = 'conductor'::regnamespace";
    assert_eq!(number(&test, owners).await, 1);
    works(&client).await
}

#[conductor::test]
async fn a_role_with_rights_on_everything_works_without_owning_it(
    test: TestConductor,
) -> anyhow::Result<()> {
    let role = Role::new(&test).await;
    role.owner_runs(
        &test,
        "grant usage on schema conductor to {role};
         grant select, insert, update, delete on all tables in schema conductor to {role};
         grant execute on all functions in schema conductor to {role}",
    )
    .await;
    works(&Conductor::from_pool(role.pool())).await
}

#[conductor::test]
async fn a_migration_that_fails_half_way_leaves_nothing(test: TestConductor) -> anyhow::Result<()> {
    emptied(&test).await;
    run_sql(
        &test,
        "create schema conductor;
         create function conductor.prune(p_limit integer) returns integer
         language sql as 'select 1'",
    )
    .await?;
    let refused = Conductor::connect_to(test.url()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("\"prune\" already exists"), "{text}");
    let tables = "select count(*) from pg_class where relnamespace = 'conductor'::regnamespace";
    assert_eq!(number(&test, tables).await, 0);
    run_sql(&test, "drop function conductor.prune").await?;
    works(&Conductor::connect_to(test.url()).await?).await
}

#[conductor::test]
async fn a_pool_is_used_when_it_is_needed(test: TestConductor) -> anyhow::Result<()> {
    emptied(&test).await;
    let options = PgConnectOptions::from_str(test.url())?;
    let pool = PgPoolOptions::new().connect_lazy_with(options);
    let client = Conductor::from_pool(pool.clone());
    assert_eq!(pool.size(), 0);
    assert!(client.list(&Filter::default()).await?.is_empty());
    works(&client).await
}

#[conductor::test]
async fn a_pool_of_one_connection_is_enough_for_a_client(
    test: TestConductor,
) -> anyhow::Result<()> {
    emptied(&test).await;
    let options = PgConnectOptions::from_str(test.url())?;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options);
    let client = Conductor::from_pool(pool);
    let run = client.invoke::<MigrationsAdd>(ADD).await?;
    client
        .invoke_batch::<MigrationsAdd>((0..6000).map(|n| MigrationsAdd { a: n, b: n }))
        .await?;
    assert!(client.cancel(run.id()).await?);
    assert!(matches!(run.result().await, Err(Error::Cancelled { .. })));
    Ok(())
}

#[conductor::test]
async fn what_the_user_has_stays_as_it_is(test: TestConductor) -> anyhow::Result<()> {
    emptied(&test).await;
    run_sql(
        &test,
        "create table public._sqlx_migrations (version bigint primary key, description text);
         insert into public._sqlx_migrations values (1, 'theirs');
         create table public.migrations (id text);
         create table public.tasks (id text);
         create function public.now() returns text language sql as 'select ''theirs''::text'",
    )
    .await?;
    let objects = "select array_agg(oid::bigint order by oid) from (
                       select oid from pg_class where relnamespace = 'public'::regnamespace
                        union all
                       select oid from pg_proc where pronamespace = 'public'::regnamespace) o";
    let before: Vec<i64> = sqlx::query_scalar(objects).fetch_one(test.pool()).await?;
    works(&Conductor::connect_to(test.url()).await?).await?;
    let after: Vec<i64> = sqlx::query_scalar(objects).fetch_one(test.pool()).await?;
    assert_eq!(before, after);
    let rows = "select count(*) from public._sqlx_migrations where description = 'theirs'";
    assert_eq!(number(&test, rows).await, 1);
    Ok(())
}

async fn set_for_database(test: &TestConductor, setting: &str) {
    let sql = format!(
        "do $$ begin
             execute format('alter database %I set ', current_database()) || {};
         end $$",
        format_args!("'{}'", setting.replace('\'', "''"))
    );
    run_sql(test, &sql).await.unwrap();
}

#[conductor::test]
async fn a_role_with_an_odd_search_path_works(test: TestConductor) -> anyhow::Result<()> {
    for path in [
        "''",
        "nowhere",
        "'$user', pg_temp",
        "pg_temp, public, pg_catalog",
    ] {
        emptied(&test).await;
        let role = Role::new(&test).await;
        let alter =
            format!("alter role {{role}} superuser; alter role {{role}} set search_path = {path}");
        role.owner_runs(&test, &alter).await;
        let client = Conductor::from_pool(role.pool());
        works(&client).await?;
        client.pool().close().await;
    }
    Ok(())
}

#[conductor::test]
async fn a_database_with_odd_defaults_works(test: TestConductor) -> anyhow::Result<()> {
    for setting in [
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "standard_conforming_strings = off",
        "extra_float_digits = -10",
        "search_path = 'nowhere'",
        "client_min_messages = 'error'",
        "default_transaction_deferrable = on",
        "transform_null_equals = on",
        "quote_all_identifiers = on",
        "lc_numeric = 'C'",
        "plan_cache_mode = 'force_custom_plan'",
    ] {
        set_for_database(&test, setting).await;
    }
    // Once with a schema made under these, and once with one from before.
    for fresh in [false, true] {
        if fresh {
            emptied(&test).await;
        }
        works(&Conductor::connect_to(test.url()).await?).await?;
    }
    Ok(())
}
