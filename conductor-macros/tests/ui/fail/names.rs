#![allow(unused)]
use conductor::prelude::*;

#[task(queue = " fast")]
async fn white_space(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "")]
async fn empty(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(queue = "a\0b")]
async fn control(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = QUEUE)]
async fn constant(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn _1(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(marker = clash)]
async fn clash(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
