//! The names that a file with tasks wants: `use conductor::prelude::*;`.

pub use crate::{
    BatchContext, Conductor, CronTick, Event, EventFields, Execution, Orchestrator, RetryExt,
    RetryPolicy, RowChange, State, Task, TaskContext, Worker, event, task,
};
