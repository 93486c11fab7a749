//! The worker of one queue in one process: claim, execute, write.
//!
//! [`machine`] decides: events and the time in, actions out. [`run`] carries its actions out, in one loop. Each handler
//! runs as an async task of its own ([`crew`]). At most two round trips to the database are under way at once
//! ([`exchange`]); each writes outcomes and returns claims.

mod batch;
mod batch_buffer;
mod beside;
mod boot_instant;
mod columns;
mod config;
mod control;
mod crew;
mod delivery;
#[cfg(test)]
mod example;
mod exchange;
mod execute;
mod handlers;
mod left;
mod limit_slots;
mod local_queue;
mod locked;
mod machine;
mod outcome;
mod prefetch;
mod protocol;
mod pulse;
mod step_writer;
mod refused;
mod run;
mod standing;
mod window;

pub(crate) use beside::Beside;
pub(crate) use boot_instant::BootInstant;
pub(crate) use conductor_postgres::store::Claim;
pub use config::{DEFAULT_CONCURRENCY, Worker};
pub(crate) use control::{Control, Phase, Signals};
pub(crate) use execute::converted;
pub(crate) use pulse::Held;
pub(crate) use run::QueueWorker;
pub(crate) use standing::Standing;
pub(crate) use step_writer::StepWriter;
