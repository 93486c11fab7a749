//! Row changes: triggers on tables start tasks and end waits. A binary of its own, as its tasks want
//! tables that other tests do not have.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
mod support;

#[path = "row_changes/faults.rs"]
mod faults;
#[path = "row_changes/installation.rs"]
mod installation;
#[path = "row_changes/order.rs"]
mod order;
#[path = "row_changes/security.rs"]
mod security;
#[path = "row_changes/snapshots.rs"]
mod snapshots;
#[path = "row_changes/statements.rs"]
mod statements;
#[path = "row_changes/tables.rs"]
mod tables;
#[path = "row_changes/values.rs"]
mod values;
#[path = "row_changes/waits.rs"]
mod waits;
