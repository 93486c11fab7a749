//! The roles conductor_client and conductor_worker: each does its work and nothing beyond it.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Filter, Status};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{Role, number, sqlstate};

#[event]
struct RolesCalled {
    name: String,
}

#[task(concurrency(limit = 2, key = payload.name))]
async fn roles_greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    let greeting = ctx
        .step("greeting", || async {
            anyhow::Ok(format!("Hello, {name}!"))
        })
        .await?;
    ctx.transaction("nothing", async |_| anyhow::Ok(())).await?;
    ctx.sleep("pause", Duration::from_millis(1)).await?;
    Ok(greeting)
}

#[task]
async fn roles_parent(ctx: &TaskContext) -> anyhow::Result<String> {
    let called = ctx.wait_for_event::<RolesCalled>("called").await?;
    Ok(ctx
        .invoke::<RolesGreet>("child", RolesGreet { name: called.name })
        .await?)
}

fn greet(name: &str) -> RolesGreet {
    RolesGreet {
        name: name.to_owned(),
    }
}

/// A login of this test's own that is a member of one of the two roles.
async fn member(test: &TestConductor, of: &str) -> (Role, Conductor) {
    let role = Role::new(test).await;
    role.owner_runs(test, &format!("grant {of} to {{role}}"))
        .await;
    let conductor = Conductor::from_pool(role.pool());
    (role, conductor)
}

async fn refused(conductor: &Conductor, statements: &[&str]) {
    for sql in statements {
        let error = sqlx::query(AssertSqlSafe((*sql).to_owned()))
            .execute(conductor.pool())
            .await
            .unwrap_err();
        assert_eq!(sqlstate(&error).as_deref(), Some("42501"), "{sql}: {error}");
    }
}

#[conductor::test]
async fn each_role_does_its_part_and_no_more(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    test.create_roles().await?;
    let (_app, client) = member(&test, "conductor_client").await;
    let (_work, worker) = member(&test, "conductor_worker").await;

    let run = client.invoke::<RolesGreet>(greet("Alice")).await?;
    let parent = client.invoke::<RolesParent>(()).await?;
    client
        .invoke_batch::<RolesGreet>((0..10).map(|n| greet(&format!("n{n}"))))
        .await?;
    let keyed = client
        .invoke::<RolesGreet>(greet("Bob"))
        .delay(Duration::from_secs(3600))
        .dedupe_key("bob")
        .await?;
    let mut tx = client.pool().begin().await?;
    client
        .invoke::<RolesGreet>(greet("Carol"))
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    assert!(client.cancel(keyed.id()).reason("not today").await?);
    assert_eq!(keyed.status().await?, Status::Cancelled);
    client
        .emit(RolesCalled {
            name: "Dave".into(),
        })
        .await?;
    refused(
        &client,
        &[
            "update conductor.live_executions set priority = 9",
            "delete from conductor.finished_executions",
            "insert into conductor.queues (name) values ('mine')",
            "select conductor.claim(1, 1, '{1}', 1, false)",
            "select conductor.declare_tasks('[]', true)",
            "select conductor.advance_clock('1 hour')",
            "select conductor.pause_queue('default')",
            "select conductor.grant_roles()",
            "create table conductor.mine (x integer)",
            // Others' work, and its records.
            "select conductor.record_steps('{}', '{}', '{}', '{}', '{}')",
            "select conductor.recover(1)",
            "select conductor.note_row_fault('pg_class', 'insert', null, '', '')",
            "select conductor.watch_rows('pg_class', 'insert', '{}', null, true, '1s')",
            "select conductor.set_paused('default', true)",
            "insert into conductor.steps values (gen_random_uuid(), 'k', 'step', 'null', now())",
            "insert into conductor.event_inbox (id, name, payload) values (gen_random_uuid(), 'e', '{}')",
            "insert into conductor.row_faults (relation, op, code, message, times, first_at, last_at)
             values ('pg_class', 'insert', '', '', 1, now(), now())",
            "truncate conductor.live_executions",
        ],
    )
    .await;

    Orchestrator::builder(worker.clone())
        .build()?
        .drain()
        .await?;
    refused(
        &worker,
        &[
            "select conductor.advance_clock('1 hour')",
            "update conductor.clock set shift = '1 hour'",
            "delete from conductor.migrations",
            "select conductor.grant_roles()",
            "select conductor.create_roles()",
            "create table conductor.mine (x integer)",
            "create trigger mine after insert on conductor.live_executions for each statement
             execute function conductor.rows_changed()",
            "insert into conductor.tasks (name, queue_id, declared_at) select 'x', min(id), now() from conductor.queues",
            "update conductor.tasks set queue_id = 1",
            "update conductor.limits set amount = 100",
            "insert into conductor.limits (task_id, kind, path, amount) values (1, 'concurrency', '{}', 1)",
            "update conductor.schedules set next_at = now()",
            "delete from conductor.schedules",
            "delete from conductor.subscriptions",
            "update conductor.event_types set keep_ms = 0",
            "insert into conductor.row_triggers (task_id, relation, op, columns, owner) values (1, 'pg_authid', 'insert', '{}', '')",
            "delete from conductor.row_watches",
            "update conductor.row_rules set version = 0",
            "drop table conductor.steps",
            "create role another_one",
        ],
    )
    .await;

    // What a heartbeat and the chores call.
    for sql in [
        "select conductor.heal_times()",
        "select conductor.recover_orphans(5)",
        "select conductor.replan('{}', '{}')",
        "select conductor.prune(10)",
        "select conductor.prune_row_watches()",
    ] {
        sqlx::query(sql).execute(worker.pool()).await?;
    }

    assert_eq!(run.result().await?, "Hello, Alice!");
    assert_eq!(parent.result().await?, "Hello, Dave!");
    let all = client
        .list(&Filter {
            limit: 100,
            ..Filter::default()
        })
        .await?;
    assert_eq!(all.len(), 15);
    assert!(all.iter().all(|info| info.state.is_final()), "{all:#?}");
    assert!(client.story(parent.id()).await?.is_some());
    client.pool().close().await;
    worker.pool().close().await;
    Ok(())
}

/// A function that is forgotten in the list of the client's would be one that anybody may call, or none.
#[conductor::test]
async fn the_rights_are_these(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    let allowed: Vec<String> = sqlx::query_scalar(
        "select distinct p.proname::text from pg_catalog.pg_proc p
          where p.pronamespace = 'conductor'::regnamespace
            and has_function_privilege('conductor_client', p.oid, 'execute')
          order by 1",
    )
    .fetch_all(test.pool())
    .await?;
    assert_eq!(
        allowed,
        [
            "as_uuid",
            "cancel",
            "careful_field",
            "declare_missing",
            "emit",
            "emit_many",
            "event_effect",
            "invoke",
            "invoke_many",
            "is_plain",
            "json_field",
            "now",
            "retry",
            "shown",
            "watch",
            "watch_event",
            "why_not_running"
        ]
    );
    let writable = "select count(*) from pg_catalog.pg_class c
                     where c.relnamespace = 'conductor'::regnamespace and c.relkind in ('r', 'v', 'p')
                       and has_table_privilege('conductor_client', c.oid, 'insert, update, delete, truncate')";
    assert_eq!(number(&test, writable).await, 0);
    let open = "select count(*) from pg_catalog.pg_proc p
                 where p.pronamespace = 'conductor'::regnamespace
                   and has_function_privilege('public', p.oid, 'execute')";
    assert_eq!(number(&test, open).await, 0);
    Ok(())
}

async fn names(test: &TestConductor, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(test.pool())
        .await
        .unwrap()
}

/// What is declared is changed by functions only, and what belongs to the schema's owner not at all.
#[conductor::test]
async fn a_worker_writes_what_runs_and_not_what_is_declared(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.create_roles().await?;
    let kept = "select distinct c.relname::text from pg_catalog.pg_class c
                 where c.relnamespace = 'conductor'::regnamespace and c.relkind in ('r', 'p')
                   and not has_table_privilege('conductor_worker', c.oid, 'insert, update, delete')
                 order by 1";
    let expected = [
        "clock",
        "event_types",
        "limits",
        "migrations",
        "row_rules",
        "row_triggers",
        "row_watches",
        "schedules",
        "subscriptions",
        "tasks",
    ];
    assert_eq!(names(&test, kept).await, expected);
    let beyond = "select c.relname::text from pg_catalog.pg_class c
                   where c.relnamespace = 'conductor'::regnamespace and c.relkind in ('r', 'p')
                     and has_table_privilege('conductor_worker', c.oid, 'truncate, references, trigger')";
    assert_eq!(names(&test, beyond).await, Vec::<String>::new());
    let owners = "select p.proname::text from pg_catalog.pg_proc p
                   where p.pronamespace = 'conductor'::regnamespace
                     and not has_function_privilege('conductor_worker', p.oid, 'execute')
                   order by 1";
    let expected = [
        "advance_clock",
        "create_roles",
        "grant_roles",
        "make_row_trigger",
        "rows_changed",
    ];
    assert_eq!(names(&test, owners).await, expected);
    Ok(())
}

/// Whatever a function of the owner's rights evaluates must be built in or ours: it takes no values of
/// types that others can make, and looks nothing up where others can put it.
#[conductor::test]
async fn functions_with_the_owners_rights_take_plain_values(
    test: TestConductor,
) -> anyhow::Result<()> {
    let open = "select p.oid::regprocedure::text from pg_catalog.pg_proc p
                 cross join lateral unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) as a(type)
                  join pg_catalog.pg_type t on t.oid = a.type
                 where p.pronamespace = 'conductor'::regnamespace and p.prosecdef
                   and (t.typtype = 'p' or t.typnamespace <> 'pg_catalog'::regnamespace)
                union all
                select p.oid::regprocedure::text from pg_catalog.pg_proc p
                 where p.pronamespace = 'conductor'::regnamespace
                   -- Names in a body of the SQL standard's form were looked up when it was made.
                   and p.prosqlbody is null
                   and (p.proconfig is null or not p.proconfig @> array['search_path=pg_catalog, pg_temp'])";
    assert_eq!(names(&test, open).await, Vec::<String>::new());
    Ok(())
}

#[conductor::test]
async fn who_may_not_make_roles_is_told(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    let (_work, worker) = member(&test, "conductor_worker").await;
    let text = worker.create_roles().await.unwrap_err().to_string();
    assert!(text.contains("CREATEROLE"), "{text}");
    assert!(worker.find(Uuid::nil()).await?.is_none());
    worker.pool().close().await;
    Ok(())
}
