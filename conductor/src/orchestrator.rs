//! The workers of one process.
//!
//! The guide page is [`running`](crate::guide::running).

pub use conductor_runtime::orchestrator::{
    Builder, DEFAULT_CONCURRENCY, Handle, Orchestrator, Worker,
};
