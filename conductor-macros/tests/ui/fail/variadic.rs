#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn many(ctx: &TaskContext, values: ...) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
