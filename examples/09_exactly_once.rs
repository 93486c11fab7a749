//! A bank that loses no money and books nothing twice, even if workers are killed.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 09_exactly_once
//!
//! In another one, the command
//!
//!     cargo run --example 09_exactly_once -- invoke trade transfers=5000 --wait
//!
//! makes 5000 transfers between ten accounts and then prints a summary of the books:
//!
//!     {"transfers":5000,"booked":4631,"declined":369,"booked_twice":0,"cents":10000000}
//!
//! Kill the worker during the transfers, as often as you like, and start it again (the pattern does not
//! match the waiting command):
//!
//!     pkill -9 -f 'exactly_once$'
//!     cargo run --example 09_exactly_once
//!
//! The transfers that the dead worker had claimed run again after its lease expires, which takes 15
//! seconds. The number of transfers declined for lack of money depends on their order. Everything else
//! stays the same: the accounts contain 10000000 cents in total, `booked` plus `declined` is the number
//! of transfers, and no transfer is booked twice. The tables have no constraint against double bookings:
//! `ctx.transaction` prevents them, as it commits the bookings and the record of the step together.

use conductor::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const ACCOUNTS: u32 = 10;

/// Moves money from one account to another; returns false if there is not enough.
#[task]
async fn transfer(ctx: &TaskContext, from: u32, to: u32, cents: u32) -> anyhow::Result<bool> {
    let (from, to, cents) = (i64::from(from), i64::from(to), i64::from(cents));
    ctx.transaction("book", async |tx| {
        // Locks the accounts in the order of their ids, so that transfers do not deadlock.
        sqlx::query("select from bank.accounts where id in ($1, $2) order by id for update")
            .bind(from)
            .bind(to)
            .execute(&mut *tx)
            .await?;
        let taken = sqlx::query(
            "update bank.accounts set cents = cents - $2 where id = $1 and cents >= $2",
        )
        .bind(from)
        .bind(cents)
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return anyhow::Ok(false);
        }
        sqlx::query("update bank.accounts set cents = cents + $2 where id = $1")
            .bind(to)
            .bind(cents)
            .execute(&mut *tx)
            .await?;
        sqlx::query("insert into bank.bookings (transfer) values ($1)")
            .bind(ctx.execution_id())
            .execute(tx)
            .await?;
        Ok(true)
    })
    .await
}

/// The summary of the transfers of one [`trade`].
#[derive(Serialize, Deserialize, JsonSchema)]
struct Books {
    transfers: usize,
    booked: i64,
    declined: usize,
    booked_twice: i64,
    /// The total of all accounts.
    cents: i64,
}

/// Makes many transfers at once and then summarizes the books.
#[task]
async fn trade(ctx: &TaskContext, transfers: u32) -> anyhow::Result<Books> {
    let orders = (0..transfers).map(|n| Transfer {
        from: n % ACCOUNTS,
        to: (n * 7 + 1) % ACCOUNTS,
        cents: n * 7919 % 900_000,
    });
    let done = ctx.invoke_all::<Transfer>("transfers", orders).await?;
    let declined = done.iter().filter(|booked| !**booked).count();

    let (booked, booked_twice, cents) = ctx
        .transaction("look", async |tx| {
            sqlx::query_as(
                "select count(*), count(*) - count(distinct b.transfer),
                        (select sum(a.cents)::bigint from bank.accounts a)
                   from bank.bookings b
                   join conductor.executions e on e.id = b.transfer
                  where e.parent_id = $1",
            )
            .bind(ctx.execution_id())
            .fetch_one(tx)
            .await
        })
        .await?;
    Ok(Books {
        transfers: done.len(),
        booked,
        declined,
        booked_twice,
        cents,
    })
}

/// Creates the tables if they do not exist.
async fn open_bank(conductor: &Conductor) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "select pg_advisory_xact_lock(9);
         create schema if not exists bank;
         create table if not exists bank.accounts (id bigint primary key, cents bigint not null);
         create table if not exists bank.bookings (transfer uuid not null);
         insert into bank.accounts (id, cents)
         select n, 1000000 from generate_series(0, 9) as n
             on conflict (id) do nothing;",
    )
    .execute(conductor.pool())
    .await?;
    Ok(())
}

conductor::main! {
    workers: [Worker::queue("default").concurrency(20)],
    setup: async |app| {
        open_bank(app.conductor()).await?;
        Ok(app)
    },
}
