#![allow(unused)]
use conductor::prelude::*;

#[task(window = "22-6")]
async fn no_minutes(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(window("06:00-06:00", tz = "europe/berlin"))]
async fn empty(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(window("22:00-06:00", days = "1-5"))]
async fn numeric_days(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(window("00:00-24:00"), timeout = 5)]
async fn always(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(window = "22:00-06:00", window = "12:00-13:00")]
async fn twice(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(window(tz = "UTC"), queue = "a")]
async fn no_times(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
