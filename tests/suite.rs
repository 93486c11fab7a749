//! The tests of the whole library against a real Postgres, as one program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cli;
