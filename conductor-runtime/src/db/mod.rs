//! The way to Postgres: addresses, schema, notifications.

mod address;
mod alone;
mod applied;
mod barrier;
mod batcher;
mod clock;
mod database;
mod deadline;
mod ends;
mod fault;
mod migrate;
mod notifier;
mod outage;
mod patience;
mod read_only;
mod session;

pub(crate) use address::{Address, connect, direct_way, open, pool_options};
pub(crate) use alone::Alone;
pub(crate) use applied::{Standing, applied, too_new};
pub(crate) use barrier::Barrier;
pub(crate) use batcher::{Batcher, message_length, take_message};
pub(crate) use clock::Clock;
pub(crate) use database::Database;
pub(crate) use deadline::{Deadline, Timed};
pub(crate) use ends::{Ends, Serving};
pub(crate) use fault::{Fault, fault, is_lasting, is_locked};
#[cfg(feature = "testing")]
pub(crate) use migrate::pretend;
pub use migrate::{MIGRATION_DEADLINE, Migration, latest_version, migrations};
pub(crate) use migrate::{applied_version, create_roles, has_code, migrate};
pub(crate) use notifier::Notifier;
pub(crate) use outage::Outage;
pub(crate) use patience::{ANSWER, OUTAGE, Patience, living};
pub(crate) use read_only::ReadOnly;
pub(crate) use session::{Session, no_answer};

/// An execution that has seen its process die so often is taken for the killer.
pub(crate) const MAX_CRASHES: i32 = 5;
