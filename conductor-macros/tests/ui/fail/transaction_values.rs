#![allow(unused)]
use anyhow::Context;
use conductor::prelude::*;

// With another error than sqlx's, what `execute` returns has to be taken apart.
#[task]
async fn with_context(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.transaction("save", async |tx| sqlx::query("select").execute(tx).await.context("save")).await?;
    Ok(())
}

#[task]
async fn a_row(ctx: &TaskContext) -> anyhow::Result<()> {
    let row = ctx.transaction("load", async |tx| sqlx::query("select").fetch_one(tx).await).await?;
    Ok(())
}

fn main() {}
