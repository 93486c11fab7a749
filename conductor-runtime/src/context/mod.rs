//! What a handler sees of its execution.

use std::any::type_name;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
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
    cancel: CancellationToken,
}

impl TaskContext {
    pub(crate) fn new(
        execution_id: Uuid,
        attempt: u32,
        states: Arc<States>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            execution_id,
            attempt,
            states,
            cancel,
        }
    }

    /// Takes a `State<T>` argument; called by the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn argument<S: FromStates>(&self) -> anyhow::Result<S> {
        S::from_states(&self.states)
    }

    /// The execution's id, the same over all attempts.
    pub fn execution_id(&self) -> Uuid {
        self.execution_id
    }

    /// Which attempt this is, from 1. Attempts that failed or died with their process count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A value given to the orchestrator by `.state(…)`.
    ///
    /// # Panics
    /// Where none of this type was given, which fails the attempt. An argument `State<T>` is
    /// checked when the orchestrator starts, and is to be preferred.
    pub fn state<T: Send + Sync + 'static>(&self) -> &T {
        match self.states.get_ref() {
            Some(value) => value,
            None => panic!(
                "no state of type {0}: add `.state({0} …)` to the orchestrator",
                type_name::<T>()
            ),
        }
    }

    /// Whether somebody has cancelled this execution. What the handler returns from then on is
    /// recorded as cancelled, so it may stop at the next good place.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends when somebody cancels this execution; for `tokio::select!`.
    pub async fn until_cancelled(&self) {
        self.cancel.cancelled().await;
    }
}
