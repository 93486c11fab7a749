//! A task that invokes another task and waits for its result.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 03_child_tasks
//!
//! In another one, the command
//!
//!     cargo run --example 03_child_tasks -- invoke parent value=5 --wait
//!
//! prints 20: the child doubles the value, and the parent adds 10. Then try
//!
//!     cargo run --example 03_child_tasks -- invoke parent value=-1 --wait
//!     cargo run --example 03_child_tasks -- invoke sum values:='[1,2,3,4]' --wait
//!
//! The child fails for negative numbers. The parent handles the error and returns 0. `sum` starts one
//! child for each value, all at once, and prints 20.

use conductor::prelude::*;

/// Doubles a number that is not negative.
#[task]
async fn child(_ctx: &TaskContext, value: i64) -> anyhow::Result<i64> {
    if value < 0 {
        return Err(anyhow::anyhow!("{value} is negative")).permanent();
    }
    Ok(value.saturating_mul(2))
}

/// Adds 10 to the result of its child.
#[task]
async fn parent(ctx: &TaskContext, value: i64) -> anyhow::Result<i64> {
    // While the parent waits, it occupies no slot of the worker.
    match ctx.invoke::<Child>("double", Child { value }).await {
        Ok(doubled) => Ok(doubled.saturating_add(10)),
        Err(conductor::Error::Failed { error, .. }) => {
            println!("the child failed: {error}");
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}

/// Doubles all values concurrently and adds them up.
#[task]
async fn sum(ctx: &TaskContext, values: Vec<i64>) -> anyhow::Result<i64> {
    let children = values.into_iter().map(|value| Child { value });
    let doubled = ctx.invoke_all::<Child>("double", children).await?;
    Ok(doubled.into_iter().fold(0, i64::saturating_add))
}

conductor::main!();
