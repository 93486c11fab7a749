//! The runtime behind the crate `conductor`, which is the one to depend on.
//!
//! The modules stand in the order of the data's way: a task is registered, a client invokes it,
//! an orchestrator's worker runs it, a context is what its handler sees.

pub mod client;
pub mod codec;
pub mod context;
pub mod db;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod error;
pub mod orchestrator;
pub mod registry;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

pub use inventory;
