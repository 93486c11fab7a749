//! The names that most files with tasks need: `use conductor::prelude::*;`.

pub use crate::{
    BatchContext, Conductor, CronTick, Event, EventFields, Execution, Orchestrator, RetryExt,
    RetryPolicy, RowChange, State, Task, TaskContext, Worker, event, task,
};
