#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn string(ctx: &TaskContext, payload: String) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn uuid(ctx: &TaskContext, payload: ::uuid::Uuid) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn option(ctx: &TaskContext, limit: Option<u32>) -> anyhow::Result<()> {
    Ok(())
}

#[task(marker = Text)]
async fn vec(ctx: &TaskContext, payload: Vec<u32>) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
