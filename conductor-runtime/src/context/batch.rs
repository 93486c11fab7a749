use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::task::{FromStates, States};

/// A batch handler's view of the executions that it runs together.
///
/// It has no durable steps, as a step belongs to one execution. After a crash or a failure an item
/// runs again, maybe beside other ones; so effects must bear to be done twice. Write them in one
/// transaction of your own, keyed by [`BatchItem::idempotency_key`].
///
/// ```
/// use conductor::prelude::*;
///
/// #[task(batch(max_size = 50, max_wait = "200ms"))]
/// async fn square(ctx: &BatchContext, items: Vec<i64>) -> anyhow::Result<Vec<i64>> {
///     println!("{} numbers", ctx.len());
///     Ok(items.into_iter().map(|n| n * n).collect())
/// }
/// ```
#[derive(Debug)]
pub struct BatchContext {
    pub(crate) items: Vec<BatchItem>,
    pub(crate) states: Arc<States>,
}

/// One execution of a batch.
#[derive(Debug)]
pub struct BatchItem {
    pub(crate) execution_id: Uuid,
    pub(crate) attempt: u32,
    /// The first execution where this one is a repeat, by `retry`.
    pub(crate) origin: Uuid,
    pub(crate) cancel: CancellationToken,
}

impl BatchContext {
    /// Takes a `State<T>` argument; called by the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn argument<S: FromStates>(&self) -> anyhow::Result<S> {
        S::from_states(&self.states)
    }

    /// How many items the batch has; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The executions, in the order of the argument `items`.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// #[task(batch())]
    /// async fn notify(
    ///     ctx: &BatchContext,
    ///     items: Vec<String>,
    /// ) -> anyhow::Result<Vec<anyhow::Result<()>>> {
    ///     let both = ctx.items().iter().zip(items);
    ///     Ok(both.map(|(item, to)| notify_one(to, item.idempotency_key("mail"))).collect())
    /// }
    /// # fn notify_one(_: String, _: String) -> anyhow::Result<()> { Ok(()) }
    /// ```
    pub fn items(&self) -> &[BatchItem] {
        &self.items
    }

    /// A value given to the orchestrator by `.state(…)`.
    ///
    /// # Panics
    /// Where none of this type was given, which fails the executions for good. An argument `State<T>` is
    /// checked when the orchestrator starts, and is to be preferred.
    #[track_caller]
    pub fn state<T: Send + Sync + 'static>(&self) -> &T {
        self.states.require()
    }
}

impl BatchItem {
    /// The execution's id, the same over all attempts.
    pub fn execution_id(&self) -> Uuid {
        self.execution_id
    }

    /// Which attempt of this execution this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A text that is the same at each attempt and each `retry`, and different for each execution
    /// and key.
    pub fn idempotency_key(&self, key: &str) -> String {
        format!("{}:{key}", self.origin)
    }

    /// Whether somebody has cancelled this execution. Whatever the handler gives for it is recorded
    /// as cancelled, so it may be left out; the other items are not concerned.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends when somebody cancels this execution; for `tokio::select!`.
    pub async fn until_cancelled(&self) {
        self.cancel.cancelled().await;
    }
}
