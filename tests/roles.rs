//! The roles conductor_client and conductor_worker: each does its work and nothing beyond it.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Filter, Status};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{Process, Role, eventually, info, number, run_sql, soon, sqlstate};

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

#[task(name = "roles.night", window = "22:00-06:00", concurrency = 3)]
async fn roles_night(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

/// Hears a greeting of its own, behind a child and a race.
#[task(name = "roles.family", retry(max_attempts = 3, backoff = "1ms"))]
async fn roles_family(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    ctx.step("fails once", || async {
        anyhow::ensure!(ctx.attempt() > 1, "the first time");
        anyhow::Ok(())
    })
    .await?;
    let called = |key: &str| {
        ctx.wait_for_event::<RolesCalled>(key.to_owned())
            .when(RolesCalled::name.eq(name.as_str()))
    };
    let heard = async { anyhow::Ok(called("never").await?.name) };
    let slept = async {
        ctx.sleep("short", Duration::from_millis(1)).await?;
        anyhow::Ok(String::new())
    };
    ctx.race("race").branch(heard).branch(slept).await?;
    ctx.invoke::<RolesGreet>("child", greet(&name)).await?;
    Ok(called("called").await?.name)
}

#[task(name = "roles.rated", rate_limit("1/1h", key = payload.key))]
async fn roles_rated(_ctx: &TaskContext, key: String) -> anyhow::Result<String> {
    Ok(key)
}

/// Runs until its process dies.
#[task(name = "roles.stays", retry(max_attempts = 1))]
async fn roles_stays(ctx: &TaskContext, crash: bool) -> anyhow::Result<u32> {
    ctx.step("one", || async { anyhow::Ok(()) }).await?;
    if crash && std::env::var_os("CONDUCTOR_SUITE_PROCESS").is_some() {
        std::future::pending::<()>().await;
    }
    Ok(std::process::id())
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
            "update conductor.function_set set version = '{99,0,0}'",
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
        "function_set",
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
        "number_lane",
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

/// Claims put off what is due outside of its window.
#[conductor::test]
async fn a_worker_meets_a_closed_window(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    let (_work, worker) = member(&test, "conductor_worker").await;
    let now = test.now().await?;
    let noon = (now.date_naive() + chrono::Days::new(1))
        .and_hms_opt(12, 0, 0)
        .unwrap();
    test.advance((noon.and_utc() - now).to_std()?).await?;
    let mut nights = Vec::new();
    for _ in 0..5 {
        nights.push(test.invoke::<RolesNight>(()).await?);
    }
    let greeting = test.invoke::<RolesGreet>(greet("Eve")).await?;
    let running = Orchestrator::builder(worker.clone())
        .build()?
        .start()
        .await?;
    assert_eq!(soon("a greeting", greeting.result()).await?, "Hello, Eve!");
    eventually("the opening", || async {
        let put_off = "select count(*) from conductor.live_executions where postponed";
        number(&test, put_off).await == 5
    })
    .await;
    test.advance(Duration::from_secs(11 * 3600)).await?;
    for night in nights {
        soon("its end", night.result()).await?;
    }
    running.stop().await?;
    worker.pool().close().await;
    Ok(())
}

/// Nothing that a worker does needs rights that the role lacks.
#[conductor::test]
async fn a_worker_lives_a_whole_life(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    let (work, worker) = member(&test, "conductor_worker").await;
    let mut dies = Process::at(&work.url())?;
    let stays = test.invoke::<RolesStays>(RolesStays { crash: true });
    let stays = stays.await?;
    eventually("a step", || async {
        number(&test, "select count(*) from conductor.steps").await == 1
    })
    .await;
    dies.kill()?;
    let start = Orchestrator::builder(worker.clone())
        .heartbeat(Duration::from_millis(100), Duration::from_secs(1));
    let running = start.build()?.start().await?;
    soon("one that crashed", stays.result()).await?;
    assert_eq!(info(&test, stays.id()).await?.crashes, 1);

    let name = "Frank".to_owned();
    let family = worker
        .invoke::<RolesFamily>(RolesFamily { name: name.clone() })
        .await?;
    let mut rated = Vec::new();
    for n in 0..20 {
        let key = format!("key {}", n % 2);
        rated.push(worker.invoke::<RolesRated>(RolesRated { key }).await?);
    }
    eventually("the wait", || async {
        let waits = "select count(*) from conductor.waits where key = 'called'";
        number(&test, waits).await == 1
    })
    .await;
    worker.emit(RolesCalled { name }).await?;
    assert_eq!(soon("its call", family.result()).await?, "Frank");
    eventually("the first ones of a rate", || async {
        let done = "select count(*) from conductor.finished_executions f
                      join conductor.tasks t on t.id = f.task_id where t.name = 'roles.rated'";
        number(&test, done).await >= 2
    })
    .await;
    for run in &rated {
        worker.cancel(run.id()).await?;
    }
    left_alone(&test, &worker).await?;
    running.stop().await?;
    chores(&worker).await;
    worker.pool().close().await;
    Ok(())
}

/// What cannot be read, a task that moves, an execution that is locked, and a queue that is paused.
async fn left_alone(test: &TestConductor, worker: &Conductor) -> anyhow::Result<()> {
    worker.pause_queue("default").await?;
    let bad = test
        .invoke::<RolesRated>(RolesRated { key: "k".into() })
        .await?;
    let gone = test.invoke::<RolesGreet>(greet("Grace")).await?;
    run_sql(
        test,
        "update conductor.live_executions set payload = '{\"key\":7}' where payload->>'key' = 'k'",
    )
    .await?;
    let mut tx = test.pool().begin().await?;
    sqlx::query("select conductor.cancel($1, 'slowly')")
        .bind(gone.id())
        .execute(&mut *tx)
        .await?;
    worker.resume_queue("default").await?;
    eventually("a note", || async {
        info(test, bad.id()).await.unwrap().unreadable.is_some()
    })
    .await;
    tx.commit().await?;
    worker.cancel(bad.id()).await?;
    assert!(worker.retry(bad.id()).await?.is_some());
    Ok(())
}

/// What an orchestrator calls now and then, or seldom.
async fn chores(worker: &Conductor) {
    for sql in [
        "select conductor.recover(5)",
        "select conductor.recover_orphans(5)",
        "select conductor.do_deferred(10, 5)",
        "select conductor.follow_moves()",
        "select conductor.heal_times()",
        "select conductor.revive_lanes()",
        "select conductor.prune_lanes(10)",
        "select conductor.prune(10)",
        "select conductor.prune_finished(10, '-infinity')",
        "select conductor.prune_row_watches()",
        "select conductor.prune_events(10)",
        "select conductor.sweep(null, 10)",
        "select conductor.dispatch(10)",
        "select conductor.look_again('{}')",
        "select conductor.take_chore('roles', '1 s')",
        "select conductor.leave_chore('roles', null, false)",
        "select conductor.disown(1, 1, '{}', '{}', '{}', 1)",
        "select conductor.leave_unreadable(1, '{}', '{}', '{}')",
        "select conductor.release('{}', '{}')",
        "select conductor.locked('{}')",
        "select conductor.retire(1, 5)",
        "select conductor.stop_orchestrator(1)",
    ] {
        let said = sqlx::query(AssertSqlSafe(sql)).execute(worker.pool()).await;
        assert!(said.is_ok(), "{sql}: {said:?}");
    }
}

/// Whoever writes what is declared does so with the owner's rights; these are called by such functions only.
#[conductor::test]
async fn no_function_of_the_workers_writes_what_is_declared(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.create_roles().await?;
    let writes = "select distinct p.proname::text from pg_catalog.pg_proc p
         cross join (select string_agg(c.relname, '|') as kept from pg_catalog.pg_class c
                      where c.relnamespace = 'conductor'::regnamespace and c.relkind in ('r', 'p')
                        and not has_table_privilege('conductor_worker', c.oid, 'insert, update, delete')) k
         where p.pronamespace = 'conductor'::regnamespace and not p.prosecdef
           and has_function_privilege('conductor_worker', p.oid, 'execute')
           and p.prosrc ~ format('(insert into|update|delete from) conductor\\.(%s)\\M', k.kept)
         order by 1";
    assert_eq!(
        names(&test, writes).await,
        [
            "drop_limits",
            "drop_unshared",
            "make_ticks",
            "row_rules_have_changed",
            "see_row_rules",
            "write_limits",
            "write_shared_limits",
            "write_tasks"
        ]
    );
    Ok(())
}

/// What a trigger is given may be of types whose casts are somebody else's, and it runs as the owner: so nobody
/// else may put it on a table.
#[conductor::test]
async fn trigger_functions_are_the_owners_alone(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    let (client, _) = member(&test, "conductor_client").await;
    let (worker, _) = member(&test, "conductor_worker").await;
    for role in [&client.name, &worker.name] {
        let may = format!(
            "select p.oid::regprocedure::text from pg_proc p
              where p.pronamespace = 'conductor'::regnamespace and p.prorettype = 'trigger'::regtype
                and has_function_privilege('{role}', p.oid, 'execute')"
        );
        assert_eq!(names(&test, &may).await, Vec::<String>::new(), "{role}");
    }
    Ok(())
}

/// A watch waits for those who write the table, by a lock that only who has rights on the table may take.
#[conductor::test]
async fn a_worker_locks_no_table_of_others(test: TestConductor) -> anyhow::Result<()> {
    test.create_roles().await?;
    run_sql(&test, "create table pay (id integer primary key)").await?;
    let (_role, worker) = member(&test, "conductor_worker").await;
    let mut tx = worker.pool().begin().await?;
    sqlx::query("select conductor.watch_rows('public.pay', 'insert', '{id}', null, false, '1 s')")
        .execute(&mut *tx)
        .await?;
    let locks = "select count(*) from pg_locks l where l.relation = 'public.pay'::regclass and l.mode like 'Share%'
                    and l.mode <> 'ShareUpdateExclusiveLock'";
    assert_eq!(number(&test, locks).await, 0);
    tx.rollback().await?;
    Ok(())
}
