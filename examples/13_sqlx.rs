//! An existing application with sqlx, a pool and tables of its own, that moves its slow work into a task.
//!
//!     cargo run --example 13_sqlx
//!
//! prints
//!
//!     account 1: statement of 1250 cents
//!     account 2: statement of 300 cents
//!     the import of account 3 failed: no account is charged -5 cents
//!     0 executions for account 3
//!
//! and ends. `Conductor::from_pool` shares the application's pool: charges and executions are committed together.
//! Conductor keeps to its schema `conductor`; the application keeps its tables and migrations. If DATABASE_URL is
//! unset, the example starts a private Postgres.

use conductor::embedded::{Embedded, Kind};
use conductor::prelude::*;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// The application's migrations. With `sqlx::migrate!` it is the same: neither touches the tables of the other.
async fn migrate(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::raw_sql(
        "select pg_advisory_xact_lock(13);
         create schema if not exists billing;
         create table if not exists billing.charges (account bigint not null, cents bigint not null);
         create table if not exists billing.statements (account bigint not null, cents bigint not null);",
    )
    .execute(pool)
    .await
    .map(drop)
}

/// Moves the charges of an account into a statement, exactly once, and returns its total.
#[task]
async fn bill(ctx: &TaskContext, account: i64) -> anyhow::Result<i64> {
    ctx.transaction("statement", async |tx| {
        sqlx::query_scalar(
            "with billed as (delete from billing.charges where account = $1 returning cents)
             insert into billing.statements (account, cents)
             select $1, coalesce(sum(cents), 0)::bigint from billed
             returning cents",
        )
        .bind(account)
        .fetch_one(tx)
        .await
    })
    .await
}

/// Stores the charges of an account and invokes `bill`. If a charge is bad, nothing of both remains.
async fn import(
    pool: &PgPool,
    conductor: &Conductor,
    account: i64,
    charges: &[i64],
) -> anyhow::Result<Execution<Bill>> {
    let mut tx = pool.begin().await?;
    let run = conductor
        .invoke::<Bill>(Bill { account })
        .in_transaction(&mut tx)
        .await?;
    for cents in charges {
        anyhow::ensure!(*cents > 0, "no account is charged {cents} cents");
        sqlx::query("insert into billing.charges (account, cents) values ($1, $2)")
            .bind(account)
            .bind(cents)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(run)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // What the application had before.
    let url = match std::env::var("DATABASE_URL") {
        Ok(url) => url,
        Err(_) => Embedded::start(Kind::Durable).await?.url("postgres"),
    };
    let pool = PgPoolOptions::new()
        .max_connections(5)
        .connect(&url)
        .await?;
    migrate(&pool).await?;

    // What it adds: a client that uses its pool, and the workers.
    let conductor = Conductor::from_pool(pool.clone());
    let workers = Orchestrator::builder(conductor.clone())
        .build()?
        .start()
        .await?;

    for (account, charges) in [(1, vec![1000, 250]), (2, vec![300])] {
        let run = import(&pool, &conductor, account, &charges).await?;
        println!(
            "account {account}: statement of {} cents",
            run.result().await?
        );
    }
    if let Err(error) = import(&pool, &conductor, 3, &[700, -5]).await {
        println!("the import of account 3 failed: {error}");
    }
    let left: i64 = sqlx::query_scalar(
        "select count(*) from conductor.executions where task = 'bill' and payload ->> 'account' = '3'",
    )
    .fetch_one(&pool)
    .await?;
    println!("{left} executions for account 3");

    // The pool closes after the workers, which write their last outcomes through it.
    workers.stop().await?;
    pool.close().await;
    Ok(())
}
