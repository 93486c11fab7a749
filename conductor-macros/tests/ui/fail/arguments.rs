#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn pattern(ctx: &TaskContext, (a, b): (u32, u32), _: u8) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn hidden_type(ctx: &TaskContext, name: impl Into<String>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn conditional(ctx: &TaskContext, #[cfg(unix)] name: String) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn no_field(ctx: &TaskContext, #[serde(default)] payload: String) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
