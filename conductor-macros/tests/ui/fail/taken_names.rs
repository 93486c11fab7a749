#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn string(ctx: &TaskContext, payload: String) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn uuid(ctx: &TaskContext, payload: ::uuid::Uuid) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn option(ctx: &TaskContext, limit: Option<u32>) -> anyhow::Result<()> {
    Ok(())
}

#[task(marker = Text)]
async fn vec(ctx: &TaskContext, payload: Vec<u32>) -> anyhow::Result<()> {
    Ok(())
}

struct Audit;

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Report;

/// Not only as the payload, but inside it.
#[task(on_insert("audits"))]
async fn audit(ctx: &TaskContext, change: RowChange<Audit>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn report(ctx: &TaskContext, day: u32) -> anyhow::Result<Report> {
    Ok(Report)
}

struct Mailer;

#[task]
async fn mailer(ctx: &TaskContext, mailer: State<Mailer>) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
