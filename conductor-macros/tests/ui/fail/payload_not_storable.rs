#![allow(unused)]
use conductor::prelude::*;

struct Resize;

#[task]
async fn resize_image(ctx: &TaskContext, payload: Resize) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
