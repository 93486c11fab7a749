//! Invokes within the user's transaction.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use sqlx::Connection;

use crate::support::{number, run_sql, sqlstate};

#[task]
async fn transactions_add(_ctx: &TaskContext, a: i64, b: i64) -> anyhow::Result<i64> {
    Ok(a + b)
}

#[task]
async fn transactions_text(_ctx: &TaskContext, payload: String) -> anyhow::Result<String> {
    Ok(payload)
}

const ADD: TransactionsAdd = TransactionsAdd { a: 1, b: 2 };

#[conductor::test]
async fn an_invoke_is_seen_when_the_transaction_commits(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table public.users (name text)").await?;
    let worker = test.orchestrator().build()?.start().await?;
    let mut tx = test.pool().begin().await?;
    sqlx::query("insert into public.users values ('Alice')")
        .execute(&mut *tx)
        .await?;
    let run = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut tx)
        .await?;
    assert!(test.find(run.id()).await?.is_none());
    assert!(matches!(run.result().await, Err(Error::NotFound(_))));
    tx.commit().await?;
    assert_eq!(run.result().await?, 3);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn nothing_remains_of_a_rolled_back_invoke(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table public.users (name text)").await?;
    let mut tx = test.pool().begin().await?;
    sqlx::query("insert into public.users values ('Alice')")
        .execute(&mut *tx)
        .await?;
    let run = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut tx)
        .await?;
    tx.rollback().await?;
    test.drain().await?;
    assert!(test.find(run.id()).await?.is_none());
    assert_eq!(number(&test, "select count(*) from public.users").await, 0);

    // Dropped without a word is rolled back too.
    let mut tx = test.pool().begin().await?;
    let run = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut tx)
        .await?;
    drop(tx);
    test.drain().await?;
    assert!(test.find(run.id()).await?.is_none());
    Ok(())
}

#[conductor::test]
async fn a_plain_connection_serves_as_well(test: TestConductor) -> anyhow::Result<()> {
    let mut connection = test.pool().acquire().await?;
    let run = test
        .invoke::<TransactionsAdd>(ADD)
        .priority(9)
        .in_transaction(&mut connection)
        .await?;
    // Outside a transaction the statement commits by itself.
    assert_eq!(test.find(run.id()).await?.unwrap().priority, 9);

    let mut tx = connection.begin().await?;
    let mut inner = tx.begin().await?;
    let undone = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut inner)
        .await?;
    inner.rollback().await?;
    let kept = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    test.drain().await?;
    assert!(test.find(undone.id()).await?.is_none());
    assert_eq!(kept.status().await?, Status::Completed);
    Ok(())
}

#[conductor::test]
async fn a_refused_payload_leaves_the_transaction_usable(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut tx = test.pool().begin().await?;
    let refused = test
        .invoke::<TransactionsText>("nul\0".to_owned())
        .in_transaction(&mut tx)
        .await;
    assert!(matches!(refused, Err(Error::Payload { .. })), "{refused:?}");
    let run = test
        .invoke::<TransactionsText>("fine".to_owned())
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "fine");
    Ok(())
}

#[conductor::test]
async fn an_unknown_task_aborts_up_to_the_last_savepoint(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(&test, "create table public.users (name text)").await?;
    test.invoke::<TransactionsText>("declared".to_owned())
        .await?;
    test.drain().await?;
    // Known to the client, and removed behind its back.
    test.invoke::<TransactionsAdd>(ADD).await?;
    run_sql(
        &test,
        "delete from conductor.live_executions;
         delete from conductor.tasks where name = 'transactions_add'",
    )
    .await?;

    let mut tx = test.pool().begin().await?;
    sqlx::query("insert into public.users values ('Alice')")
        .execute(&mut *tx)
        .await?;
    let mut inner = tx.begin().await?;
    let unknown = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut inner)
        .await;
    assert!(
        matches!(&unknown, Err(Error::UnknownTask { name, .. }) if name == "transactions_add"),
        "{unknown:?}"
    );
    // As after any error, Postgres takes nothing more before a rollback.
    let next = sqlx::query("select 1").execute(&mut *inner).await;
    assert_eq!(
        next.err().as_ref().and_then(sqlstate).as_deref(),
        Some("25P02")
    );
    inner.rollback().await?;
    let run = test
        .invoke::<TransactionsText>("goes on".to_owned())
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    assert_eq!(number(&test, "select count(*) from public.users").await, 1);
    test.drain().await?;
    assert_eq!(run.result().await?, "goes on");
    Ok(())
}

#[conductor::test]
async fn the_first_use_of_a_task_may_be_in_a_transaction(
    test: TestConductor,
) -> anyhow::Result<()> {
    assert_eq!(
        number(&test, "select count(*) from conductor.tasks").await,
        0
    );
    let mut tx = test.pool().begin().await?;
    let run = test
        .invoke::<TransactionsAdd>(ADD)
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 3);
    Ok(())
}

#[conductor::test]
async fn a_serializable_transaction_may_invoke(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<TransactionsAdd>(ADD).await?;
    for begin in [
        "begin isolation level repeatable read",
        "begin isolation level serializable",
    ] {
        let mut tx = test.pool().begin_with(begin).await?;
        sqlx::query("select count(*) from pg_class")
            .execute(&mut *tx)
            .await?;
        let run = test
            .invoke::<TransactionsAdd>(ADD)
            .in_transaction(&mut tx)
            .await?;
        tx.commit().await?;
        test.drain().await?;
        assert_eq!(run.result().await?, 3);
    }
    Ok(())
}

/// A snapshot that is older than the task's declaration does not see it.
#[conductor::test]
async fn a_first_use_in_an_old_snapshot_is_an_error_and_the_second_works(
    test: TestConductor,
) -> anyhow::Result<()> {
    for first in [true, false] {
        let mut tx = test
            .pool()
            .begin_with("begin isolation level repeatable read")
            .await?;
        sqlx::query("select count(*) from pg_class")
            .execute(&mut *tx)
            .await?;
        let run = test
            .invoke::<TransactionsAdd>(ADD)
            .in_transaction(&mut tx)
            .await;
        if first {
            assert!(matches!(run, Err(Error::UnknownTask { .. })), "{run:?}");
            continue;
        }
        tx.commit().await?;
        test.drain().await?;
        assert_eq!(run?.result().await?, 3);
    }
    Ok(())
}
