//! What a handler sees of its execution.

use std::sync::Arc;

use uuid::Uuid;

use crate::task::{FromStates, States};

/// The handler's view of its execution: identity, attempt, injected values.
///
/// It is borrowed and not `Clone`, so that no spawned task outlives the attempt.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task]
/// async fn hello(ctx: &TaskContext) -> anyhow::Result<String> {
///     Ok(format!("{} attempt {}", ctx.execution_id(), ctx.attempt()))
/// }
/// ```
#[derive(Debug)]
pub struct TaskContext {
    execution_id: Uuid,
    attempt: u32,
    states: Arc<States>,
}

impl TaskContext {
    /// Takes a `State<T>` argument; called by the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn argument<S: FromStates>(&self) -> anyhow::Result<S> {
        S::from_states(&self.states)
    }

    /// The execution's id, the same over all attempts.
    pub fn execution_id(&self) -> Uuid {
        self.execution_id
    }

    /// Which attempt this is, from 1; suspensions do not count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}
