//! The pipeline of one queue in one process: fetch, execute, flush.
//!
//! One loop owns all of a worker's state. Handlers run as tasks of their own; up to two round
//! trips to the database are under way at once, each bringing outcomes in and claims back.

mod config;
mod execute;
mod fetch;
mod flush;
mod outcome;
mod pace;
mod pipeline;
mod record;
mod suspend;

pub use config::{DEFAULT_CONCURRENCY, Worker};
pub(crate) use pipeline::{Control, Phase, Pipeline, Signals};
pub(crate) use record::Recorder;
