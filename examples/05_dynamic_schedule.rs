//! A schedule that a task makes at run time, and another one removes.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 05_dynamic_schedule
//!
//! In another one:
//!
//!     cargo run --example 05_dynamic_schedule -- invoke start_schedule word=hello
//!
//! From then on the worker prints "hello" at every third second, also after it was stopped and
//! started again: the schedule is in the database, and no deploy removes it. Until
//!
//!     cargo run --example 05_dynamic_schedule -- invoke stop_schedule
//!
//! The command line does the same without a task:
//!
//!     cargo run --example 05_dynamic_schedule -- schedule dynamic by-hand '*/3 * * * * *' word=hi
//!     cargo run --example 05_dynamic_schedule -- schedules
//!     cargo run --example 05_dynamic_schedule -- unschedule dynamic by-hand

use conductor::prelude::*;

/// What the schedule invokes.
#[task]
async fn dynamic(ctx: &TaskContext, word: String) -> anyhow::Result<()> {
    println!("{word}, by {:?}", ctx.trigger());
    Ok(())
}

/// Makes the schedule, or replaces it.
#[task]
async fn start_schedule(ctx: &TaskContext, word: String) -> anyhow::Result<()> {
    ctx.schedule::<Dynamic>("every-three-seconds", "*/3 * * * * *", Dynamic { word })
        .await
}

/// Removes it; false where there is none.
#[task]
async fn stop_schedule(ctx: &TaskContext) -> anyhow::Result<bool> {
    ctx.unschedule::<Dynamic>("every-three-seconds").await
}

conductor::main!();
