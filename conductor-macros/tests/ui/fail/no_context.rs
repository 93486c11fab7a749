#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn none() -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn only_payload(name: String) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
