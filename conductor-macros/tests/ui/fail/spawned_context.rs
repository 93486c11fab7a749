#![allow(unused)]
use conductor::prelude::*;

async fn upload(part: u32) -> anyhow::Result<u32> {
    Ok(part)
}

#[task]
async fn borrowed(ctx: &TaskContext) -> anyhow::Result<()> {
    tokio::spawn(async move {
        let _ = ctx.step("upload", || upload(1)).await;
    });
    Ok(())
}

#[task]
async fn a_step(ctx: &TaskContext) -> anyhow::Result<()> {
    tokio::spawn(ctx.step("upload", || upload(1)));
    Ok(())
}

#[task]
async fn joined(ctx: &TaskContext) -> anyhow::Result<()> {
    let mut all = tokio::task::JoinSet::new();
    all.spawn(async { ctx.step("upload", || upload(1)).await });
    Ok(())
}

#[task]
async fn cloned(ctx: &TaskContext) -> anyhow::Result<()> {
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let _ = ctx.step("upload", || upload(1)).await;
    });
    Ok(())
}

fn main() {}
