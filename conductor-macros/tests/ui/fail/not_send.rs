#![allow(unused)]
use conductor::prelude::*;

use std::rc::Rc;

async fn pause() {}

#[task]
async fn share(ctx: &TaskContext) -> anyhow::Result<()> {
    let shared = Rc::new(5);
    pause().await;
    drop(shared);
    Ok(())
}

fn main() {}
