//! Access of `conductor` to Postgres: addresses, connections, schema, notifications. Depend on
//! `conductor`, not on this crate.

mod address;
mod alone;
mod applied;
mod barrier;
mod batcher;
mod begin;
mod clock;
mod database;
mod deadline;
mod ends;
mod error;
mod fault;
mod migrate;
mod migrations;
mod notifier;
mod outage;
mod retry_budget;
mod read_only;
mod session;
mod timings;
pub mod sqlstate;
pub mod store;

pub use address::{Address, connect, direct_way, open, pool_options};
pub use alone::Alone;
pub use applied::{Standing, applied, too_new};
pub use barrier::Barrier;
pub use batcher::{Batcher, message_length, take_message};
pub use clock::Clock;
pub use database::Database;
pub use deadline::{Deadline, Timed};
pub use ends::{Ends, Serving};
pub use error::{Error, Result};
pub use fault::{Fault, fault, has_code, is_lasting, is_locked};
pub use migrate::MIGRATION_DEADLINE;
pub use migrate::{applied_version, create_roles, migrate};
#[cfg(feature = "testing")]
pub use migrations::pretended;
pub use migrations::{Migration, functions, latest_version, migrations};
pub use notifier::Notifier;
pub use outage::Outage;
pub use read_only::ReadOnly;
pub use retry_budget::{RetryBudget, living};
pub use session::{Session, no_answer};
pub use timings::{ANSWER, OUTAGE};

/// The most crashes of its process that an execution may see; then it is taken to be the cause, and
/// fails.
pub const MAX_CRASHES: i32 = 5;
