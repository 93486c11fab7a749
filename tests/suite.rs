//! The suite: one file a guarantee or feature, each test against a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod support;

mod basics;
mod cli;
