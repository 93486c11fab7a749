use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::task::{FromStates, States};

/// The context of a batch handler: the executions that it runs together.
///
/// It has no durable calls, because a step belongs to one execution. After a crash or a failure an
/// item runs again, possibly in a batch with other items, so side effects must tolerate being
/// repeated. Write them in one transaction of your own, keyed by [`BatchItem::idempotency_key`].
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
    /// The first original if this execution is a repeat by `retry`; otherwise its own id.
    pub(crate) origin: Uuid,
    pub(crate) cancel: CancellationToken,
}

impl BatchContext {
    /// Returns a `State<T>` argument; called by the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn argument<S: FromStates>(&self) -> anyhow::Result<S> {
        S::from_states(&self.states)
    }

    /// Returns the number of items in the batch; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns the executions, in the order of the argument `items`.
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

    /// Returns the value of type `T` that the orchestrator was given by `.state(…)`.
    ///
    /// # Panics
    /// If no value of this type was given; the executions then fail without further attempts.
    /// Prefer an argument `State<T>`, which is checked when the orchestrator starts.
    #[track_caller]
    pub fn state<T: Send + Sync + 'static>(&self) -> &T {
        self.states.require()
    }
}

impl BatchItem {
    /// Returns the execution's id, which is the same for all its attempts.
    pub fn execution_id(&self) -> Uuid {
        self.execution_id
    }

    /// Returns the number of this attempt of the execution, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns a text for external services that accept an idempotency key.
    ///
    /// It is the same at each attempt and each `retry`, and different for each execution and key.
    pub fn idempotency_key(&self, key: &str) -> String {
        format!("{}:{key}", self.origin)
    }

    /// Returns whether this execution was cancelled.
    ///
    /// From then on, whatever the handler returns for it, the execution ends as cancelled, so the
    /// handler may skip it. Other items are not affected.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until this execution is cancelled; for `tokio::select!`.
    pub async fn until_cancelled(&self) {
        self.cancel.cancelled().await;
    }
}
