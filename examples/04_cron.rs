//! A task that runs by itself, every three seconds, and by hand at the same time.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 04_cron
//!
//! prints a line at every third second. In another one:
//!
//!     cargo run --example 04_cron -- invoke report
//!
//! makes it print a line that says so. Stop the worker for ten seconds and start it again: one
//! report makes up for those that were missed, as `missed = "once"` is the default.

use conductor::Trigger;
use conductor::prelude::*;

/// Says who asked for it.
#[task(cron = "*/3 * * * * *")]
async fn report(ctx: &TaskContext) -> anyhow::Result<()> {
    match ctx.trigger() {
        Trigger::Schedule { scheduled_at, .. } => {
            println!("report by cron, due at {}", scheduled_at.format("%H:%M:%S"));
        }
        _ => println!("report by hand"),
    }
    Ok(())
}

conductor::main!();
