//! A task that waits for an event, and one that events start.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 07_events
//!
//! In another one, start to listen, for a minute at most:
//!
//!     cargo run --example 07_events -- invoke listen --wait
//!
//! And in a third one, say something:
//!
//!     cargo run --example 07_events -- emit announcement message="Hello World"
//!
//! The one that listens prints "Hello World", and the worker `noted: Hello World`: each announcement
//! starts an execution of the task `note`. While it waits it holds nothing: stop the worker, emit, start
//! it again, and the event is found all the same. From psql:
//!
//!     select conductor.emit('announcement', '{"message": "Hello from SQL"}');

use std::time::Duration;

use conductor::prelude::*;

/// Somebody has something to say.
#[event]
struct Announcement {
    message: String,
}

/// Is started by each announcement that is not empty.
#[task(event(Announcement, when = message != ""))]
async fn note(_ctx: &TaskContext, payload: Announcement) -> anyhow::Result<()> {
    println!("noted: {}", payload.message);
    Ok(())
}

/// Waits up to a minute for an announcement and returns its message.
#[task]
async fn listen(ctx: &TaskContext) -> anyhow::Result<String> {
    let heard = ctx
        .wait_for_event::<Announcement>("announcement")
        .timeout(Duration::from_secs(60))
        .await?;
    Ok(heard.message)
}

conductor::main!();
