#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn greet(ctx: &TaskContext, name: &str, ids: Option<&[u8]>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn remind(ctx: &TaskContext, clock: &State<u8>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn lend(ctx: &TaskContext) -> anyhow::Result<&str> {
    Ok("")
}

fn main() {}
