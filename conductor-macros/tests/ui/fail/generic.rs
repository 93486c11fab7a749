#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn typed<T: Send>(ctx: &TaskContext, value: T) -> anyhow::Result<T> {
    Ok(value)
}

#[task]
async fn lifetime<'a>(ctx: &'a TaskContext, name: String) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
