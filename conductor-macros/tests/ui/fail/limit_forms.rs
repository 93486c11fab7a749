#![allow(unused)]
use conductor::prelude::*;

#[task(concurrency(limit = 5, key = tenant_id))]
async fn no_payload(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, key = payload.tenant().id))]
async fn computed(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, key = payload))]
async fn all_of_it(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, key = "tenant_id"))]
async fn a_text(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency = 0)]
async fn none(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = -1), rate_limit = "0/1m")]
async fn less(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(key = payload.tenant_id))]
async fn no_limit(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, by = payload.tenant_id))]
async fn unknown_key(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit = "100")]
async fn no_interval(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit = "100/60")]
async fn no_unit(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit = 100)]
async fn a_number(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit(key = payload.tenant_id))]
async fn no_rate(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit("10/1s", burst = 11))]
async fn more_than_the_rate(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit("10/1s", burst = 0))]
async fn no_burst(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, burst = 2))]
async fn no_rate_but_a_burst(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency = 5, concurrency(limit = 6))]
async fn the_same_twice(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(
    rate_limit("1/1s", key = payload.tenant_id),
    concurrency(limit = 5, key = payload.tenant_id),
    rate_limit("2/1s", key = payload.tenant_id),
)]
async fn the_same_key_twice(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, name = "mine", key = payload.a), concurrency(limit = 5, name = "mine", key = payload.b))]
async fn the_same_name_twice(ctx: &TaskContext, a: i64, b: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 5, name = ""))]
async fn no_name(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(ordered_by = account)]
async fn no_payload_in_the_order(ctx: &TaskContext, account: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(ordered_by = payload.account, batch(max_size = 10, max_wait = "1s"))]
async fn ordered_batch(ctx: &BatchContext, items: Vec<Account>) -> anyhow::Result<()> {
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Account {
    account: i64,
}

fn main() {}
