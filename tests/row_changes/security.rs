//! Names are never SQL, and whoever writes a table needs no rights on ours.

use conductor::testing::TestConductor;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::Listening;
use super::tables::{outputs, prepared};
use crate::support::{Role, number, run_sql, sqlstate};

const ODD: &str = r#""Odd Schema"."x""; drop table conductor.tasks; --""#;
const TASK: &str = "rows.odd'; drop table conductor.tasks; --";

#[conductor::test]
async fn hostile_names_are_names(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        &format!(
            r#"insert into {ODD} values ('it''s "x"; drop table conductor.tasks; --', 1);
               update {ODD} set "N n" = 2;
               update {ODD} set "y""; drop table conductor.steps; --" = 'changed';
               insert into "Mixed" values (1)"#
        ),
    )
    .await?;
    let found = outputs(&test, TASK).await?;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1], "changed");
    assert_eq!(outputs(&test, "rows.mixed").await?, ["null"]);
    assert!(test.row_faults().await?.is_empty());
    assert_eq!(
        number(&test, "select count(*) from conductor.steps").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn a_role_that_may_only_insert_starts_tasks(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let role = Role::new(&test).await;
    role.owner_runs(&test, "grant insert on users to {role}")
        .await;
    let pool = role.pool();
    // Whatever the role's search path holds, ours is not led astray.
    let mut connection = pool.acquire().await?;
    connection
        .execute(
            "create function pg_temp.lower(text) returns text language sql as 'select null::text';
             create temp table live_executions (id integer);
             set search_path = pg_temp, public",
        )
        .await?;
    connection
        .execute("insert into users (id, email) values (1, 'a')")
        .await?;
    for refused in [
        "select * from users",
        "select * from conductor.live_executions",
        "select conductor.note_row_fault('users', 'insert', null, '', '')",
        "create temp table mine (id integer);
         create trigger t after insert on mine for each statement execute function conductor.rows_changed()",
    ] {
        let said = connection.execute(refused).await;
        assert!(said.is_err(), "{refused}");
    }
    drop(connection);
    pool.close().await;
    assert_eq!(outputs(&test, "rows.audit").await?, ["insert - a"]);
    Ok(())
}

#[conductor::test]
async fn the_trigger_function_has_a_fixed_search_path_and_no_public_right(
    test: Listening,
) -> anyhow::Result<()> {
    let loose = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where n.nspname = 'conductor' and p.proname ~ 'row|_jsonb' and p.prosqlbody is null
           and (not p.proconfig @> array['search_path=pg_catalog, pg_temp']
                or p.proconfig is null
                or exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0))";
    assert_eq!(number(&test, loose).await, 0);
    let definers: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
          where n.nspname = 'conductor' and p.prosecdef and p.proname ~ '_rows?$|_rows?_|^rows?_|_jsonb'
          order by 1",
    )
    .fetch_all(test.pool())
    .await?;
    let expected = [
        "declare_row_triggers",
        "install_row_trigger",
        "prune_row_watches",
        "rows_changed",
        "watch_rows",
    ];
    assert_eq!(definers, expected);
    Ok(())
}

#[conductor::test]
async fn names_of_row_changes_cannot_be_emitted(test: Listening) -> anyhow::Result<()> {
    let said = run_sql(
        &test,
        "select conductor.emit('conductor:insert public.users (id)', '{}')",
    )
    .await;
    assert!(said.unwrap_err().to_string().contains("row changes"));
    let said = test.emit_json("conductor:x", "{}").await;
    assert!(said.unwrap_err().to_string().contains("row changes"));
    Ok(())
}

/// Whatever converts a value of this type runs with the rights of whoever converts it.
const EVIL: &str = r#"
    create type evil as enum ('x', 'y');
    create function evil_text(evil) returns text language plpgsql as $$
    begin
        execute 'alter role {role} superuser';
        return 'done';
    end $$;
    create function evil_json(evil) returns json language sql as 'select to_json(theirs.evil_text($1))';
    create function evil_jsonb(evil) returns jsonb language sql as 'select to_jsonb(theirs.evil_text($1))';
    create cast (evil as json) with function evil_json(evil);
    create cast (evil as jsonb) with function evil_jsonb(evil);
    create cast (evil as text) with function evil_text(evil);
    create cast (evil as varchar) with function evil_text(evil);
    create function pg_temp.row_number() returns bigint language sql as 'select 1::bigint';
"#;

/// Makes a table of the role's own that a task listens to, as its owner would have it.
async fn listened(test: &TestConductor, table: &str, op: &str, columns: &str) {
    let sql = format!(
        "insert into conductor.row_triggers (task_id, relation, op, columns, owner)
         select t.id, '{table}'::regclass, '{op}', '{columns}', 'x' from conductor.tasks t where t.name = 'rows.mixed';
         select conductor.install_row_trigger('{table}', '{op}', '1s')"
    );
    run_sql(test, &sql).await.unwrap();
}

async fn new_rows(test: &TestConductor) -> Vec<Value> {
    let sql = "select (l.payload -> 'new')::text from conductor.live_executions l
                 join conductor.tasks t on t.id = l.task_id where t.name = 'rows.mixed' order by l.id";
    let rows: Vec<String> = sqlx::query_scalar(sql)
        .fetch_all(test.pool())
        .await
        .unwrap();
    rows.iter()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect()
}

async fn is_superuser(test: &TestConductor, role: &Role) -> bool {
    sqlx::query_scalar("select rolsuper from pg_roles where rolname = $1")
        .bind(&role.name)
        .fetch_one(test.pool())
        .await
        .unwrap()
}

/// A login that is a member of conductor_worker and may make things in a schema.
async fn maker(test: &TestConductor) -> (Role, sqlx::PgPool) {
    test.create_roles().await.unwrap();
    let role = Role::new(test).await;
    role.owner_runs(
        test,
        "grant conductor_worker to {role}; create schema theirs authorization {role}",
    )
    .await;
    let pool = role.pool();
    (role, pool)
}

async fn all(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

#[conductor::test]
async fn no_cast_of_somebodys_type_runs_with_the_owners_rights(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let (role, pool) = maker(&test).await;
    let mut theirs = pool.acquire().await?;
    let sql = format!(
        "set search_path = theirs; {EVIL}
         create domain evil_domain as evil;
         create type evil_pair as (n integer, e evil, deep evil[]);
         create type evil_range as range (subtype = evil);
         create table t (
             id integer, plain integer[], e evil, a evil[], d evil_domain, p evil_pair, pa evil_pair[], r evil_range)"
    );
    all(&mut theirs, sql.replace("{role}", &role.name)).await?;
    for op in ["insert", "update"] {
        listened(&test, "theirs.t", op, "{id,plain,e,a,d,p,pa,r}").await;
    }
    all(
        &mut theirs,
        r#"insert into t values (1, '{1,2}', 'x', '{{x,y},{y,null}}', 'x', '(1,x,"{x,y}")', '{"(1,x,)"}', '[x,y]');
           insert into t (id) values (2);
           update t set e = 'y' where id = 1"#.to_owned(),
    )
    .await?;
    assert!(!is_superuser(&test, &role).await);
    assert!(
        test.row_faults().await?.is_empty(),
        "{:?}",
        test.row_faults().await?
    );
    let pair = json!({"n": 1, "e": "x", "deep": ["x", "y"]});
    let first = |e: &str| {
        json!({
            "id": 1, "plain": [1, 2], "e": e, "a": [["x", "y"], ["y", null]], "d": "x", "p": pair,
            "pa": ["(1,x,)"], "r": "[x,y]",
        })
    };
    let second = json!({
        "id": 2, "plain": null, "e": null, "a": null, "d": null, "p": null, "pa": null, "r": null,
    });
    assert_eq!(new_rows(&test).await, [first("x"), second, first("y")]);
    drop(theirs);
    pool.close().await;
    Ok(())
}

/// A column's name that is none of the table's would be a function of the row: `r.row_to_json`.
#[conductor::test]
async fn a_column_that_is_none_is_no_function(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let (role, pool) = maker(&test).await;
    let mut theirs = pool.acquire().await?;
    let sql = format!("set search_path = theirs; {EVIL} create table t (e evil)");
    all(&mut theirs, sql.replace("{role}", &role.name)).await?;
    listened(&test, "theirs.t", "insert", "{e,row_to_json}").await;
    all(&mut theirs, "insert into t values ('x')".to_owned()).await?;
    assert!(!is_superuser(&test, &role).await);
    let faults = test.row_faults().await?;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].message.contains("column r.row_to_json"),
        "{faults:?}"
    );
    drop(theirs);
    pool.close().await;
    Ok(())
}

/// A type of whoever owns the schema, or of a superuser's extension, is read as Postgres reads it.
#[conductor::test]
async fn types_of_the_schemas_owner_keep_their_casts(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "create type point3 as enum ('origin');
         create function point3_json(point3) returns json language sql as $$ select '{\"x\": 0}'::json $$;
         create cast (point3 as json) with function point3_json(point3);
         create table spots (at point3)",
    )
    .await?;
    listened(&test, "spots", "insert", "{at}").await;
    run_sql(&test, "insert into spots values ('origin')").await?;
    assert_eq!(new_rows(&test).await, [json!({"at": {"x": 0}})]);
    Ok(())
}

/// Each step of the way by which a worker became a superuser.
#[conductor::test]
async fn a_worker_neither_makes_triggers_nor_writes_rules(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let (role, pool) = maker(&test).await;
    let mut theirs = pool.acquire().await?;
    let sql = format!(
        "set search_path = theirs; {EVIL}
         create table t (e evil); create temp table u (e integer); create view v as select 1 as id;"
    );
    all(&mut theirs, sql.replace("{role}", &role.name)).await?;
    for sql in [
        "create trigger x after insert on t referencing new table as new_rows for each statement
             execute function conductor.rows_changed()",
        "create trigger x after insert on u referencing new table as new_rows for each statement
             execute function conductor.rows_changed()",
        "insert into conductor.row_triggers (task_id, relation, op, columns, owner)
             select min(id), 't'::regclass, 'insert', '{e}', 'x' from conductor.tasks",
        "insert into conductor.row_watches (event, relation, op, columns, used_at)
             values ('conductor:insert theirs.t (e)', 't', 'insert', '{e}', now())",
        "update conductor.row_triggers set columns = '{secret}'",
        // Not theirs.
        "select conductor.install_row_trigger('public.\"Mixed\"', 'delete', '1s')",
        "select conductor.watch_rows('public.\"Mixed\"', 'delete', '{id}', null, true, '1s')",
    ] {
        let error = all(&mut theirs, sql.to_owned()).await.expect_err(sql);
        assert_eq!(sqlstate(&error).as_deref(), Some("42501"), "{sql}: {error}");
    }
    for sql in [
        "select conductor.install_row_trigger('conductor.tasks', 'insert', '1s')",
        "select conductor.install_row_trigger('u', 'insert', '1s')",
        "select conductor.install_row_trigger('v', 'insert', '1s')",
        "select conductor.install_row_trigger('t', 'truncate', '1s')",
        "select conductor.watch_rows('u', 'insert', '{e}', null, true, '1s')",
    ] {
        let error = all(&mut theirs, sql.to_owned()).await.expect_err(sql);
        assert_eq!(sqlstate(&error).as_deref(), Some("CD002"), "{sql}: {error}");
    }
    // Its own table it may listen to.
    all(
        &mut theirs,
        "select conductor.install_row_trigger('t', 'insert', '1s');
         select conductor.watch_rows('t', 'insert', '{e}', null, true, '1s');
         insert into t values ('x')"
            .to_owned(),
    )
    .await?;
    assert!(!is_superuser(&test, &role).await);
    let heard =
        "select count(*) from conductor.event_inbox where payload ->> 'new' = '{\"e\":\"x\"}'";
    assert_eq!(number(&test, heard).await, 1);
    drop(theirs);
    pool.close().await;
    Ok(())
}
