//! Tasks: their traits, options and triggers.
//!
//! The guide page is [`tasks`](crate::guide::tasks).

pub use conductor_runtime::registry::Registry;
pub use conductor_runtime::task::{
    BatchDefinition, Declared, HandlerError, Keep, LimitDefinition, LimitKind, Output, Payload,
    RetryPolicy, State, Task, TaskDefinition, Trigger,
};
