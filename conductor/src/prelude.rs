//! The names that a file with tasks wants: `use conductor::prelude::*;`.

pub use crate::{
    BatchContext, Conductor, CronTick, Event, Execution, Orchestrator, RetryExt, RetryPolicy,
    State, Task, TaskContext, Worker, event, task,
};
