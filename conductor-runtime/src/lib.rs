//! The runtime of the crate `conductor`. Depend on `conductor`, not on this crate.
//!
//! The modules are in the order in which data passes through them: a task is registered, a client
//! invokes it, a worker of an orchestrator runs it, and its handler receives a context. Below them
//! are the modules that all of them use.

pub mod task;
pub mod event;
pub mod row;
pub mod registry;
pub mod client;
pub mod check;
pub mod orchestrator;
mod worker;
pub mod context;

pub mod codec;
mod storable;
mod path;
pub mod error;
pub mod failure;
pub mod verdict;
mod panics;
mod unreadable;
#[cfg(feature = "embedded")]
pub use conductor_embedded as embedded;
#[cfg(feature = "testing")]
pub mod testing;

pub use conductor_postgres::sqlstate;
pub use inventory;
