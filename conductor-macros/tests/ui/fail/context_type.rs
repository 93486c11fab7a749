#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn by_value(ctx: TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn exclusive(ctx: &mut TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn forever(ctx: &'static TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
