//! Access to Postgres: addresses, connections, schema, notifications.

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
mod migrations;
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
pub use migrate::MIGRATION_DEADLINE;
pub(crate) use migrate::{applied_version, create_roles, has_code, migrate};
pub use migrations::{Migration, latest_version, migrations};
#[cfg(feature = "testing")]
pub(crate) use migrations::{functions, pretended};
pub(crate) use notifier::Notifier;
pub(crate) use outage::Outage;
pub(crate) use patience::{ANSWER, OUTAGE, Patience, living};
pub(crate) use read_only::ReadOnly;
pub(crate) use session::{Session, no_answer};

/// The most crashes of its process that an execution may see; then it is taken to be the cause, and
/// fails.
pub(crate) const MAX_CRASHES: i32 = 5;
