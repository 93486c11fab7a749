//! A schedule that one task creates at run time, and another one removes.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 05_dynamic_schedule
//!
//! In another one:
//!
//!     cargo run --example 05_dynamic_schedule -- invoke start_schedule word=hello
//!
//! From then on, the worker prints "hello" every three seconds, also after a restart: the schedule is
//! stored in the database, and a deploy does not remove it. This command removes it:
//!
//!     cargo run --example 05_dynamic_schedule -- invoke stop_schedule
//!
//! The command line can do the same without a task:
//!
//!     cargo run --example 05_dynamic_schedule -- schedule dynamic by-hand '*/3 * * * * *' word=hi
//!     cargo run --example 05_dynamic_schedule -- schedules
//!     cargo run --example 05_dynamic_schedule -- unschedule dynamic by-hand

use conductor::prelude::*;

/// The task that the schedule invokes.
#[task]
async fn dynamic(ctx: &TaskContext, word: String) -> anyhow::Result<()> {
    println!("{word}, by {:?}", ctx.trigger());
    Ok(())
}

/// Creates or replaces the schedule.
#[task]
async fn start_schedule(ctx: &TaskContext, word: String) -> anyhow::Result<()> {
    ctx.schedule::<Dynamic>("every-three-seconds", "*/3 * * * * *", Dynamic { word })
        .await
}

/// Removes the schedule; returns false if there is none.
#[task]
async fn stop_schedule(ctx: &TaskContext) -> anyhow::Result<bool> {
    ctx.unschedule::<Dynamic>("every-three-seconds").await
}

conductor::main!();
