//! The names that a file with tasks wants: `use conductor::prelude::*;`.

pub use crate::{
    Conductor, CronTick, Execution, Orchestrator, RetryExt, State, Task, TaskContext, Worker, task,
};
