#![allow(unused)]
use conductor::prelude::*;

#[derive(Debug)]
struct NoError;

type Outcome<T> = Result<T, String>;

#[task]
async fn text(ctx: &TaskContext) -> Result<i64, String> {
    Err("no".into())
}

#[task]
async fn alias(ctx: &TaskContext) -> Outcome<()> {
    Ok(())
}

#[task]
async fn boxed(ctx: &TaskContext) -> Result<i64, Box<dyn std::error::Error>> {
    Err("no".into())
}

#[task]
async fn own(ctx: &TaskContext) -> Result<(), NoError> {
    Err(NoError)
}

#[task]
async fn step(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.step("ask", async || Err::<i64, _>("no".to_owned())).await?;
    Ok(())
}

#[task]
async fn transaction(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.transaction("save", async |tx| Err::<i64, _>("no".to_owned())).await?;
    Ok(())
}

#[task(batch(max_size = 10))]
async fn batch(ctx: &BatchContext, items: Vec<i64>) -> Result<(), String> {
    Ok(())
}

fn main() {}
