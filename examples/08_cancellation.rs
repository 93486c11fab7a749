//! Cancelling: what a running handler sees, and what becomes of its children.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 08_cancellation
//!
//! In another one, an album, whose tracks take a minute each. Wait for it, or note the id that is
//! printed without `--wait` (`list` shows it, too):
//!
//!     cargo run --example 08_cancellation -- invoke album title=Abbey tracks:='["intro","theme"]' --wait
//!
//! In a third one:
//!
//!     cargo run --example 08_cancellation -- cancel ID --reason "wrong master tape"
//!
//! The album waits for its tracks, so it is cancelled at once, and the command that waits ends with
//! code 1 and `was cancelled: wrong master tape`. Its tracks are running: both print `cleaning up`
//! within a second, remove their files, and end as `cancelled`, for the same reason.
//! The invoice was started with `.detach()`: ten seconds later it is `printed`.
//!
//! A second `cancel ID` says that it has ended already, and a wrong id that there is none. Cancel
//! one track instead of the album (`list --state running` has their ids): when the other one is
//! done, the album ends as completed and is `incomplete`, as it handles that error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conductor::prelude::*;

/// Encodes a track into a file, half a second of music at a time.
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
        // A checkpoint costs nothing. A step would give the same error after a cancel.
        if let Err(cancelled) = ctx.checkpoint().await {
            println!("{track}: cancelled at part {part}, cleaning up");
            remove(&file).await?;
            return Err(cancelled.into());
        }
        // Where a single wait is long, let the cancel cut it short.
        tokio::select! {
            () = encode_part(part) => {}
            () = ctx.until_cancelled() => {}
        }
    }
    println!("{track}: encoded");
    remove(&file).await?;
    Ok(120)
}

/// Stands for half a second of work.
async fn encode_part(_part: u32) {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Not in a step: once an execution is cancelled, no step runs any more. So it must bear to be done
/// twice.
async fn remove(file: &Path) -> std::io::Result<()> {
    match tokio::fs::remove_file(file).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Prints the invoice of an album, which is due whatever becomes of the music.
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

/// Encodes the tracks side by side.
#[task]
async fn album(ctx: &TaskContext, title: String, tracks: Vec<String>) -> anyhow::Result<String> {
    ctx.step("open", || async {
        println!("{title}: {} tracks", tracks.len());
        anyhow::Ok(())
    })
    .await?;

    // In one `join!`, so all start together. A cancel of the album reaches the tracks, and leaves
    // the invoice alone.
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
        // Somebody has cancelled one track, and not the album.
        Err(conductor::Error::Cancelled { .. }) => Ok(format!("{title}: incomplete")),
        Err(error) => Err(error.into()),
    }
}

conductor::main!();
