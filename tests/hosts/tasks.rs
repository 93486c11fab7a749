//! What runs on the hosts, beside the load of the storm.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conductor::prelude::*;

use crate::chaos::journal::Journal;
use crate::chaos::worker::JOURNAL;

pub const TABLES: &str = "
    create table stands (execution uuid not null, key text not null);
    create table seats (n bigint primary key, taken bigint not null);
    insert into seats values (0, 0);";

/// Handlers stand until this file is there.
pub fn gate(folder: &Path) -> PathBuf {
    folder.join("gate")
}

async fn at_gate() {
    let journal = PathBuf::from(std::env::var(JOURNAL).unwrap());
    let gate = gate(journal.parent().unwrap());
    while !gate.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn note(ctx: &TaskContext, key: &'static str) -> anyhow::Result<()> {
    ctx.transaction(key, async |tx| {
        sqlx::query("insert into stands values ($1, $2)")
            .bind(ctx.execution_id())
            .bind(key)
            .execute(tx)
            .await
            .map(drop)
    })
    .await
}

/// Stands in a step, between two transactions.
#[task(name = "hosts.stand", retry(max_attempts = 1))]
pub async fn hosts_stand(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    note(ctx, "before").await?;
    ctx.step("stand", || async {
        let body = ctx.state::<Journal>().body(ctx.execution_id(), "stand");
        at_gate().await;
        body.ends();
        anyhow::Ok(())
    })
    .await?;
    note(ctx, "behind").await?;
    Ok(n)
}

/// Stands in a transaction that has written, and holds the lock on a row that all want.
#[task(name = "hosts.seat", retry(max_attempts = 1))]
pub async fn hosts_seat(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ctx.transaction("seat", async |tx| {
        sqlx::query("insert into stands values ($1, 'seat')")
            .bind(ctx.execution_id())
            .execute(&mut *tx)
            .await?;
        sqlx::query("update seats set taken = taken + 1 where n = 0")
            .execute(tx)
            .await?;
        let body = ctx.state::<Journal>().body(ctx.execution_id(), "seat");
        at_gate().await;
        body.ends();
        Ok::<_, sqlx::Error>(())
    })
    .await?;
    Ok(n)
}

#[task(name = "hosts.quick", retry(max_attempts = 1))]
pub async fn hosts_quick(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let body = ctx.state::<Journal>().body(ctx.execution_id(), "quick");
    body.ends();
    Ok(n)
}
