//! Triggers are made at start and dropped when nothing needs them; what cannot work is refused.

use conductor::Error;
use sqlx::Connection;

use super::tables::{TABLES, installed, outputs, prepared};
use super::{Listening, tasks};
use crate::support::{Role, eventually, number, run_sql, session, soon};

fn refused(result: conductor::Result<()>) -> Vec<String> {
    match result {
        Err(Error::Refused(faults)) => faults,
        other => panic!("{other:?}"),
    }
}

#[conductor::test]
async fn tables_and_columns_that_are_not_there_are_refused_with_the_place(
    test: Listening,
) -> anyhow::Result<()> {
    let wrong = TABLES
        .replace(
            "create table users (id bigint primary key, email text",
            "create table users (id bigint primary key, emial text",
        )
        .replace("create table keyless", "create table keylses")
        .replace(
            "create table \"Mixed\" (id integer)",
            "create view \"Mixed\" as select 1 as id",
        );
    run_sql(&test, &wrong).await?;
    let faults = refused(test.drain().await);
    let all = faults.join("\n");
    for words in [
        "task \"rows.audit\" at ",
        "tests/row_changes/tables.rs:",
        "on_insert(\"public.users\"): the table public.users has no column \"email\", which User reads; did you mean \"emial\"?",
        "on_update(\"public.users\"): the table public.users has no column \"email\", which `columns` names; did you mean \"emial\"?",
        "on_update(\"keyless\"): there is no table keyless; did you mean public.keylses?",
        "on_insert(\"public.Mixed\"): public.\"Mixed\" is a view",
    ] {
        assert!(all.contains(words), "{words} is not in {all}");
    }
    // Nothing was declared.
    assert_eq!(
        number(&test, "select count(*) from conductor.tasks").await,
        0
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.row_triggers").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn triggers_go_when_no_task_needs_them_and_those_of_others_stay(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let mine = installed(&test).await?;
    assert!(mine.contains(&"public.users insert".to_owned()), "{mine:?}");
    assert!(
        mine.contains(
            &"\"Odd Schema\".\"x\"\"; drop table conductor.tasks; --\" update".to_owned()
        ),
        "{mine:?}"
    );
    // Another service listens to a table, and an earlier build of this one listened to another.
    run_sql(
        &test,
        "create table theirs (id integer); create table former (id integer);
         select conductor.declare_tasks(jsonb_build_array(jsonb_build_object(
             'name', 'elsewhere', 'queue', 'default', 'package', 'elsewhere', 'place', 'e.rs:1', 'docs', '',
             'priority', 0, 'max_attempts', 3, 'backoff_initial_ms', 1, 'backoff_max_ms', 1, 'jitter', 0,
             'keep_completed_ms', 1000, 'keep_failed_ms', 1000, 'payload_schema', true, 'output_schema', true)), true);
         insert into conductor.row_triggers (task_id, relation, op, columns, owner)
         select t.id, 'theirs'::regclass, 'insert', array['id'], 'elsewhere/elsewhere' from conductor.tasks t where t.name = 'elsewhere'
          union all
         select t.id, 'former'::regclass, 'insert', array['id'], r.owner
           from conductor.tasks t join conductor.row_triggers r on r.task_id = t.id
          where t.name = 'rows.mixed';
         select conductor.install_row_trigger('theirs', 'insert', '1s'), conductor.install_row_trigger('former', 'insert', '1s')",
    )
    .await?;
    assert_eq!(installed(&test).await?.len(), mine.len() + 2);
    test.drain().await?;
    let now = installed(&test).await?;
    assert_eq!(now.len(), mine.len() + 1, "{now:?}");
    assert!(now.contains(&"public.theirs insert".to_owned()), "{now:?}");
    assert!(!now.contains(&"public.former insert".to_owned()), "{now:?}");
    Ok(())
}

#[conductor::test]
async fn without_ddl_nothing_is_made_and_what_is_missing_is_named(
    test: Listening,
) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    let faults = refused(test.orchestrator().no_ddl().build()?.drain().await);
    assert!(faults[0].contains("has no trigger for"), "{faults:?}");
    assert!(faults[0].contains("triggers --sql"), "{faults:?}");
    assert_eq!(installed(&test).await?, Vec::<String>::new());
    // What the command prints, applied by hand.
    for trigger in test.row_triggers().await? {
        run_sql(&test, &trigger.sql.unwrap()).await?;
    }
    test.orchestrator().no_ddl().build()?.drain().await?;
    run_sql(&test, "insert into users values (1, 'a')").await?;
    assert_eq!(outputs(&test, "rows.audit").await?, ["insert - a"]);
    assert!(
        test.row_triggers()
            .await?
            .iter()
            .all(|trigger| trigger.sql.is_none())
    );
    Ok(())
}

#[conductor::test]
async fn a_table_in_use_is_waited_for_and_its_writers_are_not_held_up(
    test: Listening,
) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    let mut writer = session(&test).await?;
    let mut open = writer.begin().await?;
    sqlx::query("insert into users values (1, 'a')")
        .execute(&mut *open)
        .await?;
    let starts = test.orchestrator().build()?;
    let starting = tokio::spawn(async move { starts.drain().await });
    eventually("the wait for the lock", || async {
        let waits =
            "select count(*) from pg_locks where not granted and relation = 'users'::regclass";
        number(&test, waits).await > 0
    })
    .await;
    // Another writer gets through between two tries.
    let mut other = session(&test).await?;
    let inserted = sqlx::query("insert into users values (2, 'b')").execute(&mut other);
    soon("another insert", inserted).await?;
    open.commit().await?;
    soon("the start", starting).await??;
    run_sql(&test, "insert into users values (3, 'c')").await?;
    assert_eq!(outputs(&test, "rows.audit").await?, ["insert - c"]);
    Ok(())
}

#[conductor::test]
async fn a_table_that_stays_in_use_is_named_with_its_holder(test: Listening) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    let mut writer = session(&test).await?;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut writer)
        .await?;
    let mut open = writer.begin().await?;
    sqlx::query("lock table users in share update exclusive mode")
        .execute(&mut *open)
        .await?;
    match soon("the refusal", test.drain()).await {
        Err(Error::Locked { table, holders }) => {
            assert_eq!(table, "public.users");
            assert!(
                holders.contains(&format!("process {pid} (idle in transaction")),
                "{holders}"
            );
        }
        other => panic!("{other:?}"),
    }
    open.rollback().await?;
    test.drain().await?;
    Ok(())
}

#[conductor::test]
async fn two_processes_start_at_once(test: Listening) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    let starts = (0..4).map(|_| {
        let orchestrator = test.orchestrator().build().unwrap();
        tokio::spawn(async move { orchestrator.drain().await })
    });
    for start in starts.collect::<Vec<_>>() {
        soon("a start", start).await??;
    }
    run_sql(&test, "insert into users values (1, 'a')").await?;
    assert_eq!(outputs(&test, "rows.audit").await?, ["insert - a"]);
    Ok(())
}

/// The worker's role owns the schema and not the tables.
#[conductor::test]
async fn a_role_without_the_right_is_told_what_to_do(test: Listening) -> anyhow::Result<()> {
    run_sql(&test, TABLES).await?;
    let role = Role::new(&test).await;
    role.owner_runs(
        &test,
        "grant all on schema conductor to {role}; grant all on all tables in schema conductor to {role};
         grant all on all sequences in schema conductor to {role};
         grant execute on all functions in schema conductor to {role}",
    )
    .await;
    let pool = role.pool();
    let conductor = conductor::Conductor::from_pool(pool.clone());
    let started = conductor::Orchestrator::builder(conductor)
        .tasks(tasks())
        .build()?
        .drain()
        .await;
    let error = started.unwrap_err().to_string();
    assert!(error.contains("may not make the trigger for"), "{error}");
    assert!(error.contains("--no-ddl"), "{error}");
    pool.close().await;
    Ok(())
}
