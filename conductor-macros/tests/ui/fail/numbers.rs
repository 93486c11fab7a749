#![allow(unused)]
use conductor::prelude::*;

#[task(retry(max_attempts = 0, jitter = -0.1), priority = "high")]
async fn greet(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
