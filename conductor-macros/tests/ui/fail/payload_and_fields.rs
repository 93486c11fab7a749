#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn resize(ctx: &TaskContext, payload: String, width: u32, height: u32) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
