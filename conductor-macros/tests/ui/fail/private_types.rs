#![allow(unused)]
use conductor::prelude::*;

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Order;

#[task]
pub async fn pay(ctx: &TaskContext, payload: Order) -> anyhow::Result<()> {
    Ok(())
}

#[task]
pub async fn load(ctx: &TaskContext) -> anyhow::Result<Order> {
    Ok(Order)
}

fn main() {}
