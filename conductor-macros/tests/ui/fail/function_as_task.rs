#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn child(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

// The compiler looks the name up before it looks at any trait, so it cannot name the type `Child`.
async fn function(conductor: Conductor) -> anyhow::Result<()> {
    conductor.invoke::<child>(Child { n: 1 }).await?;
    Ok(())
}

fn main() {}
