#![allow(unused)]
use conductor::prelude::*;

#[task(timeout = "soon")]
async fn words(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(timeout = "15")]
async fn unitless(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(timeout = 15)]
async fn unquoted(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(timeout = "0s", keep(failed = "200 years"))]
async fn out_of_range(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(retry(backoff = "2h..15s"))]
async fn backwards(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(retry(backoff = "15s.."))]
async fn half_open(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
