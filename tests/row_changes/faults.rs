//! A fault of ours never breaks the user's statement.

use std::time::Duration;

use sqlx::Connection;

use super::Listening;
use super::tables::{outputs, prepared};
use crate::support::{number, run_sql, session, soon, sqlstate};

const ALL: &str =
    "select count(*) from conductor.executions where task in ('rows.audit', 'rows.upgraded')";

#[conductor::test]
async fn a_fault_is_noted_and_the_users_statement_goes_on(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    // A migration that the code does not know yet: one task cannot read its column, another can.
    run_sql(
        &test,
        "insert into users values (1, 'a', 'free');
         alter table users rename column email to mail;
         insert into users values (2, 'b');
         update conductor.row_triggers set columns = '{id}' where task_id =
             (select id from conductor.tasks where name = 'rows.upgraded');
         update conductor.row_triggers set filter = null;
         update users set plan = 'pro'; update users set plan = 'free'",
    )
    .await?;
    assert_eq!(number(&test, "select count(*) from users").await, 2);
    let faults = test.row_faults().await?;
    let told: Vec<_> = (faults.iter())
        .map(|f| {
            (
                f.table.as_str(),
                f.op.as_str(),
                f.task.as_deref(),
                f.code.as_str(),
                f.times,
            )
        })
        .collect();
    let audit = Some("rows.audit");
    assert_eq!(
        told,
        [
            ("public.users", "update", audit, "42703", 2),
            ("public.users", "insert", audit, "42703", 1)
        ]
    );
    assert!(faults[0].message.contains("r.email"), "{:?}", faults[0]);
    // What could be read was started: two updates of two rows.
    let upgraded = "select count(*) from conductor.executions where task = 'rows.upgraded'";
    assert_eq!(number(&test, upgraded).await, 4);
    Ok(())
}

#[conductor::test]
async fn notes_of_faults_make_nobody_wait_and_do_not_grow(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(&test, "alter table users rename column email to mail").await?;
    let mut first = session(&test).await?;
    let mut open = first.begin().await?;
    sqlx::query("insert into users values (1, 'a')")
        .execute(&mut *open)
        .await?;
    let mut second = session(&test).await?;
    // The first one has not committed; the second one must not wait for its note.
    for id in 2..400 {
        let inserted = sqlx::query("insert into users values ($1, 'b')")
            .bind(id)
            .execute(&mut second);
        soon("an insert", inserted).await?;
    }
    open.commit().await?;
    let rows = number(&test, "select count(*) from conductor.row_faults").await;
    assert!((1..=3).contains(&rows), "{rows}");
    let times: i64 = test
        .row_faults()
        .await?
        .iter()
        .map(|fault| fault.times)
        .sum();
    assert_eq!(times, 399);
    test.advance(Duration::from_secs(8 * 24 * 60 * 60)).await?;
    run_sql(&test, "select conductor.prune_row_watches()").await?;
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_cancelled_statement_is_cancelled(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let mut user = session(&test).await?;
    // The insert itself is quick; what times out is ours.
    run_sql(
        &test,
        "create function slow() returns trigger language plpgsql as $$
             begin perform pg_sleep(30); return new; end $$;
         create trigger slow before insert on conductor.live_executions for each row execute function slow()",
    )
    .await?;
    sqlx::query("set statement_timeout = '300ms'")
        .execute(&mut user)
        .await?;
    let refused = sqlx::query("insert into users values (1, 'a')")
        .execute(&mut user)
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&refused).as_deref(), Some("57014"));
    assert_eq!(number(&test, "select count(*) from users").await, 0);
    assert_eq!(number(&test, ALL).await, 0);
    Ok(())
}

#[conductor::test]
async fn a_trigger_works_in_serializable_transactions(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let mut user = session(&test).await?;
    let mut tx = user
        .begin_with("begin isolation level serializable")
        .await?;
    sqlx::query("insert into users values (1, 'a')")
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    assert_eq!(outputs(&test, "rows.audit").await?, ["insert - a"]);
    Ok(())
}
