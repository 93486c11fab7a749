#![allow(unused)]
use conductor::prelude::*;

struct Mailer;

impl Mailer {
    #[task]
    async fn send(&self, ctx: &TaskContext, to: String) -> anyhow::Result<()> {
        Ok(())
    }
}

fn main() {}
