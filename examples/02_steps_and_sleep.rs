//! Steps that run once, and a sleep that costs nothing.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 02_steps_and_sleep
//!
//! In another one:
//!
//!     cargo run --example 02_steps_and_sleep -- invoke process items:='["apple","banana","cherry"]' --wait
//!
//! prints `["APPLE","BANANA","CHERRY"]` after a second. The worker prints `run of the handler`
//! twice, as the handler starts again from the top when the sleep is over, but `validating`,
//! `transforming` and `saving` once each: what a step gave is recorded, and a replay takes it from
//! there. An empty list, `items:='[]'`, fails at once, without another attempt.
//!
//! Then invoke it with `delay_seconds=20`, kill the worker meanwhile (Ctrl-C, or `kill -9`), start
//! it again: it goes on after `transforming`, when the 20 seconds are over and not later.

use std::time::Duration;

use conductor::prelude::*;

/// Validates, transforms and saves some items.
#[task]
async fn process(
    ctx: &TaskContext,
    items: Vec<String>,
    delay_seconds: Option<u64>,
) -> anyhow::Result<Vec<String>> {
    // Not in a step, so it happens again at each replay.
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

    // The worker's slot is free meanwhile, and the process may end.
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
