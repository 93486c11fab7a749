#![allow(unused)]
use conductor::prelude::*;

#[task(queue = "a", queue = "b")]
async fn duplicate(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(retry = 5)]
async fn retry_number(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(keep = "7d", timeout, priority(5), queue =)]
async fn wrong_forms(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(queue = "a" priority = 5)]
async fn no_comma(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task("greet")]
async fn no_key(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(marker = "Other", crate = "a b")]
async fn paths(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
