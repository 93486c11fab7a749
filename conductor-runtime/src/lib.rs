//! The runtime behind the crate `conductor`, which is the one to depend on.
//!
//! The modules stand in the order of the data's way: a task is registered, a client invokes it,
//! an orchestrator's worker runs it, a context is what its handler sees. Below them lies what all
//! of them use.

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
pub mod db;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "testing")]
pub mod testing;

pub use inventory;
