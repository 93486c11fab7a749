//! The way to Postgres: addresses, schema, notifications.

mod address;
mod batcher;
mod clock;
mod fault;
mod migrate;
mod notifier;

pub(crate) use address::{Address, open};
pub(crate) use batcher::{Batcher, message_length, take_message};
pub(crate) use clock::Clock;
pub(crate) use fault::{Fault, fault, is_deadlock};
pub use migrate::{Migration, applied_version, latest_version, migrate, migrations};
pub(crate) use notifier::Notifier;
