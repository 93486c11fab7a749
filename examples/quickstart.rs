//! A program that does everything in one process: it invokes a task, runs it and prints its typed result.
//!
//!     cargo run --example quickstart
//!
//! prints `Hello, Alice! Hello, Alice!`. If DATABASE_URL is unset, it starts a private Postgres.

use conductor::prelude::*;

/// Greets a person several times.
#[task]
async fn greet(_ctx: &TaskContext, name: String, times: usize) -> anyhow::Result<String> {
    Ok(vec![format!("Hello, {name}!"); times].join(" "))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let conductor = Conductor::connect().await?;
    let worker = Orchestrator::builder(conductor.clone())
        .build()?
        .start()
        .await?;

    let payload = Greet {
        name: "Alice".into(),
        times: 2,
    };
    let run = conductor.invoke::<Greet>(payload).await?;
    let greeting: String = run.result().await?;
    println!("{greeting}");

    worker.stop().await?;
    Ok(())
}
