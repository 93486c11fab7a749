#![allow(unused)]
use conductor::prelude::*;

#[task(cron = "61 * * * *")]
async fn out_of_range(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron = "0 0 30 2 *", cron("0 0 0 1 1 * 2020", name = "past"))]
async fn never(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("0 9 * * 1-5", name = "morning"))]
async fn numeric_weekday(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron = "5m", cron("@dayly", name = "a"), cron = 5, cron)]
async fn no_rules(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("@daily", tz = "Berlin", missed = "skp", overlap = "queue", name = "", zone = "UTC"))]
async fn options(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron(name = "morning", tz = "UTC"))]
async fn no_rule_first(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron = "@daily", cron = "@hourly")]
async fn two_unnamed(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(cron("@daily", name = "a"), cron("@hourly", name = "a"))]
async fn two_of_a_name(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
