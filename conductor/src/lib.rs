//! Durable tasks for Rust on nothing but Postgres.

pub use conductor_macros::task;
pub use conductor_runtime::context::TaskContext;
pub use conductor_runtime::error::{Error, RetryExt};
pub use conductor_runtime::task::{State, Task};

pub mod prelude;

/// What generated code names; no part of the public surface.
#[doc(hidden)]
pub mod __private {
    pub use conductor_runtime::inventory;
    pub use conductor_runtime::task::{Handler, Place, StateNeed, TaskDefinition, TaskResult};
    pub use {anyhow, schemars, serde};
}
