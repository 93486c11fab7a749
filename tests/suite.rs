//! The suite: one file a guarantee or feature, each test against a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod support;

mod basics;
mod cli;
mod g15_exactly_once;
mod g5_crash;
mod g5_memo;
mod g6_keys;
mod g7_suspension;
mod g8_children;
