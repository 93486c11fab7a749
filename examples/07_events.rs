//! A task that waits for an event, and a task that events start.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 07_events
//!
//! In another one, start a task that waits for an event, for at most a minute:
//!
//!     cargo run --example 07_events -- invoke listen --wait
//!
//! In a third one, emit an event:
//!
//!     cargo run --example 07_events -- emit announcement message="Hello World"
//!
//! The second terminal prints "Hello World". The worker prints `noted: Hello World`, as each announcement
//! starts an execution of the task `note`. No event is lost while the worker is down: stop it, emit an
//! event, start it again, and the waiting task receives the event. From psql:
//!
//!     select conductor.emit('announcement', '{"message": "Hello from SQL"}');

use std::time::Duration;

use conductor::prelude::*;

/// An announcement.
#[event]
struct Announcement {
    message: String,
}

/// Runs for each announcement that is not empty.
#[task(event(Announcement, when = message != ""))]
async fn note(_ctx: &TaskContext, payload: Announcement) -> anyhow::Result<()> {
    println!("noted: {}", payload.message);
    Ok(())
}

/// Waits for an announcement for at most a minute and returns its message.
#[task]
async fn listen(ctx: &TaskContext) -> anyhow::Result<String> {
    let heard = ctx
        .wait_for_event::<Announcement>("announcement")
        .timeout(Duration::from_secs(60))
        .await?;
    Ok(heard.message)
}

conductor::main!();
