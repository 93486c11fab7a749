//! The worker of one queue in one process: fetch, execute, flush.
//!
//! One loop owns all of a worker's state. Each handler runs as an async task of its own. At most
//! two round trips to the database are in progress at once; each writes outcomes and returns
//! claims.

mod backlog;
mod batch;
mod beside;
mod boot_instant;
mod claim;
mod config;
mod control;
mod execute;
mod fetch;
mod flush;
mod gathering;
mod handlers;
mod lanes;
mod left;
mod locked;
mod outcome;
mod pace;
mod pipeline;
mod pulse;
mod record;
mod standing;
mod suspend;
mod window;

pub(crate) use beside::Beside;
pub(crate) use boot_instant::BootInstant;
pub(crate) use claim::Claim;
pub use config::{DEFAULT_CONCURRENCY, Worker};
pub(crate) use control::{Control, Phase, Signals};
pub(crate) use execute::converted;
pub(crate) use pipeline::Pipeline;
pub(crate) use pulse::Held;
pub(crate) use record::Recorder;
pub(crate) use standing::Standing;
