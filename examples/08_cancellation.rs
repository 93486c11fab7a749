//! Cancellation: how a handler notices it, and how it affects children.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 08_cancellation
//!
//! In another one, invoke an album, whose tracks take a minute each. `list` shows its id. Without
//! `--wait`, the command prints the id:
//!
//!     cargo run --example 08_cancellation -- invoke album title=Abbey tracks:='["intro","theme"]' --wait
//!
//! In a third one:
//!
//!     cargo run --example 08_cancellation -- cancel ID --reason "wrong master tape"
//!
//! The album waits for its tracks, so it is cancelled at once. The waiting command prints
//! `was cancelled: wrong master tape` and exits with code 1. The tracks are running: both print
//! `cleaning up` within a second, remove their files and end as `cancelled`, for the same reason. The
//! invoice was invoked with `.detach()`, so it is printed after ten seconds.
//!
//! A second `cancel ID` fails, as the execution has ended already; so does an unknown id. Cancel one
//! track instead of the album (`list --state running` shows the ids). When the other track is done,
//! the album completes with `incomplete`, as it handles that error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conductor::prelude::*;

/// Encodes a track into a file, in parts of half a second.
#[task]
async fn encode(ctx: &TaskContext, track: String) -> anyhow::Result<u32> {
    let name = format!("{}.track", ctx.execution_id());
    let file: PathBuf = ctx
        .step("create", || async {
            let file = std::env::temp_dir().join(name);
            tokio::fs::write(&file, b"").await?;
            anyhow::Ok(file)
        })
        .await?;

    for part in 1..=120 {
        // A checkpoint costs nothing. After a cancel, a step would return the same error.
        if let Err(cancelled) = ctx.checkpoint().await {
            println!("{track}: cancelled at part {part}, cleaning up");
            remove(&file).await?;
            return Err(cancelled.into());
        }
        // A cancel interrupts a long wait.
        tokio::select! {
            () = encode_part(part) => {}
            () = ctx.until_cancelled() => {}
        }
    }
    println!("{track}: encoded");
    remove(&file).await?;
    Ok(120)
}

/// Simulates half a second of work.
async fn encode_part(_part: u32) {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Removes the file. Not a step, as no step runs in a cancelled execution; so it must tolerate running
/// twice.
async fn remove(file: &Path) -> std::io::Result<()> {
    match tokio::fs::remove_file(file).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Prints the invoice of an album, also if the album is cancelled.
#[task]
async fn invoice(ctx: &TaskContext, title: String) -> anyhow::Result<()> {
    ctx.sleep("until it is due", Duration::from_secs(10))
        .await?;
    ctx.step("print", || async {
        println!("{title}: the invoice is printed");
        anyhow::Ok(())
    })
    .await
}

/// Encodes the tracks concurrently.
#[task]
async fn album(ctx: &TaskContext, title: String, tracks: Vec<String>) -> anyhow::Result<String> {
    ctx.step("open", || async {
        println!("{title}: {} tracks", tracks.len());
        anyhow::Ok(())
    })
    .await?;

    // One `join!`, so that all start at once. A cancel of the album also cancels the tracks, but not
    // the invoice.
    let invoice = Invoice {
        title: title.clone(),
    };
    let tracks = tracks.into_iter().map(|track| Encode { track });
    let (invoiced, encoded) = tokio::join!(
        ctx.invoke::<Invoice>("invoice", invoice).detach(),
        ctx.invoke_all::<Encode>("encode", tracks),
    );
    invoiced?;
    match encoded {
        Ok(parts) => Ok(format!("{title}: {} parts", parts.iter().sum::<u32>())),
        // A track was cancelled, but not the album.
        Err(conductor::Error::Cancelled { .. }) => Ok(format!("{title}: incomplete")),
        Err(error) => Err(error.into()),
    }
}

conductor::main!();
