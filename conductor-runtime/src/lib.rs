//! The runtime behind the crate `conductor`, which is the one to depend on.

pub mod codec;
pub mod context;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod error;
pub mod task;
pub use inventory;
