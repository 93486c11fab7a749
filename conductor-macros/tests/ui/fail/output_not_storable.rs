#![allow(unused)]
use conductor::prelude::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Thumb;

#[task]
async fn resize(ctx: &TaskContext) -> anyhow::Result<Thumb> {
    Ok(Thumb)
}

fn main() {}
