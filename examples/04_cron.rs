//! A task that runs every three seconds, and on request.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 04_cron
//!
//! prints a line every three seconds. In another one, the command
//!
//!     cargo run --example 04_cron -- invoke report
//!
//! makes the worker print `report by hand`. Stop the worker for ten seconds and start it again: one
//! report replaces all that were missed, as `missed = "once"` is the default.

use conductor::Trigger;
use conductor::prelude::*;

/// Prints what started it.
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
