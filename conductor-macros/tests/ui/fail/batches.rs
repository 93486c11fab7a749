#![allow(unused)]
use conductor::prelude::*;

#[task(batch(max_size = 100))]
async fn single_context(ctx: &TaskContext, items: Vec<u32>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn no_key(ctx: &BatchContext, n: u32) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch)]
async fn whole_payload(ctx: &BatchContext, payload: String) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch)]
async fn no_items(ctx: &BatchContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch)]
async fn no_vec(ctx: &BatchContext, items: u32) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch)]
async fn borrowed(ctx: &mut BatchContext, items: Vec<&str>) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch)]
async fn one_output(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<u32> {
    Ok(1)
}

#[task(batch)]
async fn no_result(ctx: &BatchContext, items: Vec<u32>) -> Vec<u32> {
    items
}

#[task(batch(max_size = 0, max_wait = "2h"))]
async fn sizes(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch = 50)]
async fn number(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<()> {
    Ok(())
}

#[task(batch(max = 5), concurrency = 3, rate_limit = "1/s")]
async fn limited(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
