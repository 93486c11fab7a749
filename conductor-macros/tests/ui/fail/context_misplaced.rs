#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn late(name: String, ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn twice(ctx: &TaskContext, other: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
