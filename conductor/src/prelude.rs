//! The names that a file with tasks wants: `use conductor::prelude::*;`.

pub use crate::{RetryExt, State, Task, TaskContext, task};
