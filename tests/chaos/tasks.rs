//! What the executions do. Each has a number of its own, from which its output follows.

use std::time::Duration;

use conductor::prelude::*;

use super::journal::Journal;

/// As many at once, over all processes.
pub const LIMIT: usize = 3;
pub const ACCOUNTS: i64 = 20;

pub const TABLES: &str = "
    create table accounts (id bigint primary key, cents bigint not null);
    insert into accounts select n, 1000 from generate_series(0, 19) as n;
    create table bookings (execution uuid not null, key text not null, n bigint not null);
    -- A final state never changes.
    create table violations (id uuid);
    create function violated() returns trigger language plpgsql as $$
    begin
        insert into public.violations values (old.id);
        return null;
    end $$;
    create trigger violated after update or delete on conductor.finished_executions
        for each row execute function violated();";

#[event(name = "chaos.ping")]
pub struct ChaosPing {
    n: i64,
}

impl ChaosPing {
    pub fn new(n: i64) -> Self {
        Self { n }
    }
}

async fn step(ctx: &TaskContext, key: &'static str, takes: u64) -> anyhow::Result<()> {
    ctx.step(key, || async move {
        let body = ctx.state::<Journal>().body(ctx.execution_id(), key);
        tokio::time::sleep(Duration::from_millis(takes)).await;
        body.ends();
        anyhow::Ok(())
    })
    .await
}

/// Books money from one account to another, exactly once.
#[task(
    name = "chaos.transfer",
    retry(max_attempts = 1000, backoff = "50ms..300ms")
)]
pub async fn chaos_transfer(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    step(ctx, "quote", n.unsigned_abs() % 7).await?;
    let cents = n % 13 + 1;
    for (key, from, to) in [("there", n, n * 7 + 3), ("further", n * 7 + 3, n * 3 + 1)] {
        ctx.transaction(key, async |tx| {
            let mut changes = [(from, -cents), (to, cents)]
                .map(|(account, cents)| (account.rem_euclid(ACCOUNTS), cents));
            // In one order, or each would wait for another.
            changes.sort_unstable();
            for (account, cents) in changes {
                sqlx::query("update accounts set cents = cents + $2 where id = $1")
                    .bind(account)
                    .bind(cents)
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query("insert into bookings values ($1, $2, $3)")
                .bind(ctx.execution_id())
                .bind(key)
                .bind(n)
                .execute(tx)
                .await
                .map(drop)
        })
        .await?;
    }
    ctx.emit("announce", ChaosPing { n }).await?;
    step(ctx, "receipt", 1).await?;
    Ok(n)
}

/// Fails twice in a step, and once more behind it.
#[task(
    name = "chaos.flaky",
    retry(max_attempts = 1000, backoff = "20ms..200ms")
)]
pub async fn chaos_flaky(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ctx.step("flaky", || async {
        let body = ctx.state::<Journal>().body(ctx.execution_id(), "flaky");
        if ctx.attempt() < 3 {
            body.fails();
            anyhow::bail!("on purpose");
        }
        body.ends();
        Ok(())
    })
    .await?;
    anyhow::ensure!(ctx.attempt() > 3, "on purpose, too");
    Ok(n)
}

#[task(
    name = "chaos.leaf",
    retry(max_attempts = 1000, backoff = "20ms..200ms")
)]
pub async fn chaos_leaf(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    step(ctx, "leaf", n.unsigned_abs() % 20).await?;
    Ok(n * 2)
}

/// A join, a sleep and a race of children.
#[task(
    name = "chaos.tree",
    retry(max_attempts = 1000, backoff = "20ms..200ms")
)]
pub async fn chaos_tree(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let leaves = (0..4).map(|leaf| ChaosLeaf { n: n + leaf });
    let (leaves, beside) = tokio::join!(
        ctx.invoke_all::<ChaosLeaf>("leaves", leaves),
        step(ctx, "beside", 5),
    );
    beside?;
    let leaves: i64 = leaves?.into_iter().sum();
    ctx.sleep("pause", Duration::from_millis(n.unsigned_abs() % 300))
        .await?;
    let first = ctx
        .race("first")
        .branch(async {
            let leaf = ctx.invoke::<ChaosLeaf>("one", ChaosLeaf { n }).await?;
            anyhow::Ok(leaf)
        })
        .branch(async {
            let leaf = ctx.invoke::<ChaosLeaf>("other", ChaosLeaf { n }).await?;
            anyhow::Ok(leaf)
        })
        .await?;
    step(ctx, "behind", 1).await?;
    Ok(leaves + first)
}

pub fn tree_gives(n: i64) -> i64 {
    (0..4).map(|leaf| (n + leaf) * 2).sum::<i64>() + n * 2
}

#[task(
    name = "chaos.limited",
    concurrency = 3,
    retry(max_attempts = 1000, backoff = "20ms..200ms")
)]
pub async fn chaos_limited(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let inside = ctx.state::<Journal>().body(ctx.execution_id(), "limited");
    tokio::time::sleep(Duration::from_millis(n.unsigned_abs() % 40)).await;
    inside.ends();
    Ok(n)
}

/// Waits for the event with its number.
#[task(
    name = "chaos.listener",
    retry(max_attempts = 1000, backoff = "20ms..200ms")
)]
pub async fn chaos_listener(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let ping = ctx
        .wait_for_event::<ChaosPing>("ping")
        .when(ChaosPing::n.eq(n))
        .await?;
    Ok(ping.n)
}

/// Started by each event.
#[task(
    name = "chaos.pinged",
    event(ChaosPing),
    retry(max_attempts = 1000, backoff = "20ms..200ms")
)]
pub async fn chaos_pinged(_ctx: &TaskContext, payload: ChaosPing) -> anyhow::Result<i64> {
    Ok(payload.n)
}
