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
            "create table conductor.mine (x integer)",
            "drop table conductor.steps",
            "create role another_one",
        ],
    )
    .await;

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
            "cancel",
            "declare_missing",
            "emit",
            "emit_many",
            "event_effect",
            "invoke",
            "invoke_many",
            "now",
            "retry",
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
