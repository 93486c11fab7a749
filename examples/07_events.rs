//! A task that waits for an event.
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
//! The first one prints "Hello World". While it waits it holds nothing: stop the worker, emit, start
//! it again, and the event is found all the same. From psql:
//!
//!     select conductor.emit('announcement', '{"message": "Hello from SQL"}');

use std::time::Duration;

use conductor::__private::{EventDefinition, Place, inventory, schemars, serde};
use conductor::prelude::*;

/// Somebody has something to say.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(crate = "serde")]
#[schemars(crate = "schemars")]
struct Announcement {
    message: String,
}

impl Event for Announcement {
    const NAME: &'static str = "announcement";
}

const PLACE: Place = Place {
    file: file!(),
    line: line!(),
};

inventory::submit! {
    EventDefinition::of::<Announcement>(PLACE, "examples").docs("Somebody has something to say.")
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
