#![allow(unused)]
use conductor::prelude::*;

#[task]
fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    Ok(name)
}

// The type exists all the same: one mistake, one message.
fn caller() -> Greet {
    Greet { name: String::new() }
}

fn main() {}
