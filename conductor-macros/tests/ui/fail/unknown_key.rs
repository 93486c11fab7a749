#![allow(unused)]
use conductor::prelude::*;

#[task(quue = "fast", retry(max_attempt = 5), colour = "red")]
async fn greet(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
