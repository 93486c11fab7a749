//! The suite: one file a guarantee or feature, each test against a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod support;

mod addresses;
mod basics;
mod cli;
mod client;
mod migrations;
mod names;
mod payloads;
mod plans;
mod sql_api;
mod template;
mod transactions;
