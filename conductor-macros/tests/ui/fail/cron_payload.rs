#![allow(unused)]
use conductor::prelude::*;

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Day {
    year: i32,
}

#[task(cron = "@daily")]
async fn from_nothing(ctx: &TaskContext, payload: Day) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("@daily", name = "fields"))]
async fn report(ctx: &TaskContext, pages: u32) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("@daily", payload = Day { year: "2026" }))]
async fn wrong_field(ctx: &TaskContext, payload: Day) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("@daily", payload = 5))]
async fn wrong_type(ctx: &TaskContext, payload: Day) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
