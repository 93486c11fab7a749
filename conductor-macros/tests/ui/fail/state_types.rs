#![allow(unused)]
use conductor::prelude::*;
use std::cell::RefCell;

trait Mailer: Send + Sync {
    fn send(&self);
}

struct NotSync(RefCell<u8>);

#[task]
async fn object(ctx: &TaskContext, mailer: State<dyn Mailer>) -> anyhow::Result<()> {
    mailer.send();
    Ok(())
}

#[task]
async fn bounds(ctx: &TaskContext, mailer: conductor::State<dyn Fn() -> u8 + Send + Sync>) -> anyhow::Result<()> {
    Ok(())
}

#[task]
async fn unsynchronized(ctx: &TaskContext, cell: State<NotSync>) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
