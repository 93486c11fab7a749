//! Steps that run once, and a sleep that occupies no worker.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 02_steps_and_sleep
//!
//! In another one, the command
//!
//!     cargo run --example 02_steps_and_sleep -- invoke process items:='["apple","banana","cherry"]' --wait
//!
//! prints `["APPLE","BANANA","CHERRY"]` after a second. The worker prints `run of the handler`
//! twice, because the handler starts again from the top after the sleep. It prints `validating`,
//! `transforming` and `saving` once each: the result of a step is recorded, and a replay returns the
//! recorded result. An empty list, `items:='[]'`, fails at once, without another attempt.
//!
//! Then invoke it with `delay_seconds=20`, kill the worker during the sleep (Ctrl-C, or `kill -9`)
//! and start it again. The execution continues after `transforming`, as soon as the 20 seconds are
//! over.

use std::time::Duration;

use conductor::prelude::*;

/// Validates, transforms and saves some items.
#[task]
async fn process(
    ctx: &TaskContext,
    items: Vec<String>,
    delay_seconds: Option<u64>,
) -> anyhow::Result<Vec<String>> {
    // Code outside of steps runs again in each replay.
    println!("run of the handler");

    let valid = ctx
        .step("validate", || async {
            println!("validating");
            if items.is_empty() {
                return Err(anyhow::anyhow!("there is nothing to process")).permanent();
            }
            Ok(items)
        })
        .await?;

    let transformed = ctx
        .step("transform", || async {
            println!("transforming");
            anyhow::Ok(
                valid
                    .iter()
                    .map(|item| item.to_uppercase())
                    .collect::<Vec<_>>(),
            )
        })
        .await?;

    // During the sleep, the worker can run other executions, and the process can end.
    let pause = Duration::from_secs(delay_seconds.unwrap_or(1));
    ctx.sleep("pause", pause).await?;

    ctx.step("save", || async {
        println!("saving");
        anyhow::Ok(())
    })
    .await?;
    Ok(transformed)
}

conductor::main!();
