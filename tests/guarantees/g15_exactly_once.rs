//! G15: the writes of `ctx.transaction` and its record commit together or not at all.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::Connection;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn books(test: &TestConductor) -> anyhow::Result<()> {
    sqlx::query("create table books (entry text not null, n bigint not null)")
        .execute(test.pool())
        .await?;
    Ok(())
}

async fn entries(test: &TestConductor) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("select count(*) from books")
        .fetch_one(test.pool())
        .await?)
}

#[task(name = "g15.book", retry(max_attempts = 3, backoff = "1s..1s"))]
async fn g15_book(ctx: &TaskContext, entry: String) -> anyhow::Result<i64> {
    let n = ctx
        .transaction("book", async |tx| {
            sqlx::query("insert into books values ($1, 1)")
                .bind(&entry)
                .execute(&mut *tx)
                .await?;
            sqlx::query("insert into books values ($1, 2)")
                .bind(&entry)
                .execute(&mut *tx)
                .await?;
            let n: i64 = sqlx::query_scalar("select count(*) from books")
                .fetch_one(tx)
                .await?;
            anyhow::Ok(n)
        })
        .await?;
    ctx.sleep("a day", DAY).await?;
    anyhow::ensure!(ctx.attempt() > 1, "after the commit");
    Ok(n)
}

#[conductor::test]
async fn a_committed_transaction_is_not_repeated(test: TestConductor) -> anyhow::Result<()> {
    books(&test).await?;
    let run = test
        .invoke::<G15Book>(G15Book { entry: "a".into() })
        .await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(DAY).await?;
    }
    assert_eq!(run.result().await?, 2);
    assert_eq!(entries(&test).await?, 2);
    Ok(())
}

#[task(name = "g15.written", retry(max_attempts = 3, backoff = "1s..1s"))]
async fn g15_written(ctx: &TaskContext) -> anyhow::Result<()> {
    let insert = "insert into books values ('x', 1)";
    ctx.transaction("book", async |tx| sqlx::query(insert).execute(tx).await)
        .await?;
    anyhow::ensure!(ctx.attempt() > 1, "after the commit");
    Ok(())
}

#[conductor::test]
async fn what_execute_returns_is_recorded_as_null(test: TestConductor) -> anyhow::Result<()> {
    books(&test).await?;
    let run = test.invoke::<G15Written>(()).await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(DAY).await?;
    }
    run.result().await?;
    assert_eq!(entries(&test).await?, 1);
    let record: String =
        sqlx::query_scalar("select value::text from conductor.steps where execution_id = $1")
            .bind(run.id())
            .fetch_one(test.pool())
            .await?;
    assert_eq!(record, "null");
    Ok(())
}

#[task(name = "g15.wavering", retry(max_attempts = 3, backoff = "1s..1s"))]
async fn g15_wavering(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.transaction("book", async |tx| {
        sqlx::query("insert into books values ('w', 1)")
            .execute(&mut *tx)
            .await?;
        anyhow::ensure!(ctx.attempt() > 2, "changed my mind");
        Ok(())
    })
    .await
}

#[conductor::test]
async fn an_error_rolls_back(test: TestConductor) -> anyhow::Result<()> {
    books(&test).await?;
    let run = test.invoke::<G15Wavering>(()).await?;
    test.drain().await?;
    assert_eq!(entries(&test).await?, 0);
    for _ in 0..3 {
        test.advance(Duration::from_secs(2)).await?;
        test.drain().await?;
    }
    run.result().await?;
    assert_eq!(entries(&test).await?, 1);
    Ok(())
}

static LOSSES: AtomicUsize = AtomicUsize::new(0);
static AFTER_LOSS: AtomicUsize = AtomicUsize::new(0);

/// Its first run loses its claim while the transaction is open.
#[task(name = "g15.zombie")]
async fn g15_zombie(ctx: &TaskContext, url: String) -> anyhow::Result<usize> {
    let nth = LOSSES.fetch_add(1, SeqCst);
    ctx.transaction("book", async |tx| {
        sqlx::query("insert into books values ('z', $1)")
            .bind(nth as i64)
            .execute(&mut *tx)
            .await?;
        if nth == 0 {
            sqlx::query("select conductor.give_back(array[$1], null)")
                .bind(ctx.execution_id())
                .execute(&mut sqlx::PgConnection::connect(&url).await?)
                .await?;
        }
        anyhow::Ok(())
    })
    .await?;
    AFTER_LOSS.fetch_add(1, SeqCst);
    Ok(nth)
}

#[conductor::test]
async fn a_lost_claim_cannot_commit(test: TestConductor) -> anyhow::Result<()> {
    books(&test).await?;
    let url = test.url().to_owned();
    let run = test.invoke::<G15Zombie>(G15Zombie { url }).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 1);
    assert_eq!(entries(&test).await?, 1);
    assert_eq!(AFTER_LOSS.load(SeqCst), 1, "the zombie goes no further");
    Ok(())
}

/// Cancelled by itself while its transaction is open.
#[task(name = "g15.cancelled")]
async fn g15_cancelled(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.transaction("book", async |tx| {
        sqlx::query("insert into books values ('c', 1)")
            .execute(&mut *tx)
            .await?;
        ctx.cancel(ctx.execution_id()).reason("too late").await?;
        anyhow::Ok(())
    })
    .await
}

#[conductor::test]
async fn a_cancelled_execution_cannot_commit(test: TestConductor) -> anyhow::Result<()> {
    books(&test).await?;
    let run = test.invoke::<G15Cancelled>(()).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Cancelled);
    assert_eq!(entries(&test).await?, 0);
    Ok(())
}

#[task(name = "g15.many")]
async fn g15_many(ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    ctx.transaction("book", async |tx| {
        sqlx::query("insert into books values ('m', $1)")
            .bind(n)
            .execute(tx)
            .await
            .map(drop)
    })
    .await
}

#[conductor::test]
async fn more_transactions_than_connections_are_served(test: TestConductor) -> anyhow::Result<()> {
    books(&test).await?;
    test.invoke_batch::<G15Many>((0..200).map(|n| G15Many { n }))
        .await?;
    test.drain().await?;
    assert_eq!(entries(&test).await?, 200);
    Ok(())
}
