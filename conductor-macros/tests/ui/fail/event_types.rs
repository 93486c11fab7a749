#![allow(unused)]
use conductor::prelude::*;

#[event]
struct UserSignedUp {
    plan: String,
    visits: u32,
    active: bool,
    address: Address,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Address {
    city: String,
}

#[task(event(UserSignedUp, when = pln == "pro"))]
async fn unknown_field(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(event(UserSignedUp, when = address.town == "Berlin"))]
async fn unknown_nested(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(event(UserSignedUp, when = plan == 5 && active > false && visits))]
async fn wrong_types(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Other {
    plan: String,
}

#[task(event(UserSignedUp))]
async fn not_made(ctx: &TaskContext, payload: Other) -> anyhow::Result<()> {
    Ok(())
}

#[task(event(Other))]
async fn no_event(ctx: &TaskContext, payload: Other) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
