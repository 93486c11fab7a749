#![allow(unused)]
use conductor::prelude::*;

#[task(concurrency(limit = 5, key = payload.tenant))]
async fn unknown_field(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Order {
    customer: Customer,
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Customer {
    id: i64,
}

#[task(rate_limit("10/1m", key = payload.customer.number))]
async fn unknown_nested_field(ctx: &TaskContext, payload: Order) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency = 2, rate_limit("10/1m", key = payload.customer))]
async fn no_payload(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(ordered_by = payload.account)]
async fn unknown_order(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[task(ordered_by = payload.customer?.id)]
async fn not_optional(ctx: &TaskContext, payload: Order) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
