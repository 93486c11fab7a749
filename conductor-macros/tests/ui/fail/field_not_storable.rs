#![allow(unused)]
use conductor::prelude::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Size;

#[task]
async fn resize(ctx: &TaskContext, size: Size) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
