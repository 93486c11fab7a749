#![allow(unused)]
use conductor::prelude::*;

#[task]
async unsafe fn dangerous(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
const fn constant(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async extern "C" fn foreign(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
