//! What compiles, and what it becomes: a file for each kind of key.
//!
//! One binary, as a build for each file would take minutes. Definitions are looked up by their file, since the registry has
//! those of all.
#![allow(dead_code, missing_docs, private_interfaces, unreachable_pub, unused)]
#![allow(clippy::all, clippy::unwrap_used)]

#[path = "pass/batches.rs"]
mod batches;
#[path = "pass/bodies.rs"]
mod bodies;
#[path = "pass/crons.rs"]
mod crons;
#[path = "pass/events.rs"]
mod events;
#[path = "pass/keys.rs"]
mod keys;
#[path = "pass/limits.rs"]
mod limits;
#[path = "pass/payloads.rs"]
mod payloads;
#[path = "pass/rows.rs"]
mod rows;
#[path = "pass/states.rs"]
mod states;
