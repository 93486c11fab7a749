#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn nothing(ctx: &TaskContext) {}

#[task]
async fn hidden(ctx: &TaskContext) -> anyhow::Result<impl Send> {
    Ok(())
}

fn main() {}
