#![allow(unused)]
use conductor::prelude::*;
use std::rc::Rc;

#[derive(serde::Deserialize)]
struct Unwritable(u32);

#[derive(serde::Serialize)]
struct Unreadable(u32);

async fn pause() {}

#[task]
async fn not_serialize(ctx: &TaskContext) -> anyhow::Result<()> {
    let value = ctx.step("make", || async { anyhow::Ok(Unwritable(1)) }).await?;
    Ok(())
}

#[task]
async fn not_deserialize(ctx: &TaskContext) -> anyhow::Result<()> {
    let value = ctx.step("make", || async { anyhow::Ok(Unreadable(1)) }).await?;
    Ok(())
}

#[task]
async fn not_owned(ctx: &TaskContext, name: String) -> anyhow::Result<()> {
    let name: &str = ctx.step("make", || async { anyhow::Ok(name.as_str()) }).await?;
    Ok(())
}

#[task]
async fn not_send(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.step("make", || async {
        let shared = Rc::new(5);
        pause().await;
        anyhow::Ok(*shared)
    })
    .await?;
    Ok(())
}

#[task]
async fn not_a_result(ctx: &TaskContext) -> anyhow::Result<()> {
    let n = ctx.step("make", || async { 5 }).await?;
    Ok(())
}

#[task]
async fn not_a_future(ctx: &TaskContext) -> anyhow::Result<()> {
    let n = ctx.step("make", || anyhow::Ok(5)).await?;
    Ok(())
}

#[task]
async fn not_a_closure(ctx: &TaskContext) -> anyhow::Result<()> {
    let n = ctx.step("make", async { anyhow::Ok(5) }).await?;
    Ok(())
}

#[task]
async fn no_error_type(ctx: &TaskContext) -> anyhow::Result<()> {
    let n = ctx.step("make", || async { Ok(5) }).await?;
    Ok(())
}

fn main() {}
