/// How many handlers of a queue run at once in this process, where nothing else is said.
pub const DEFAULT_CONCURRENCY: usize = 50;

/// A queue that this process serves.
///
/// ```
/// use conductor::prelude::*;
///
/// let fast = Worker::queue("fast").concurrency(5);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub(crate) queue: String,
    pub(crate) concurrency: usize,
}

impl Worker {
    /// Serves this queue with 50 handlers at once. A name has 1 to 100 bytes, no control character,
    /// and no white space at its ends; `a-b`, `a_b` and `A-B` are three queues.
    pub fn queue(name: impl Into<String>) -> Self {
        Self {
            queue: name.into(),
            concurrency: DEFAULT_CONCURRENCY,
        }
    }

    /// How many handlers run at once in this process; at least 1.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// The queue's name.
    pub fn queue_name(&self) -> &str {
        &self.queue
    }

    /// How many handlers run at once at most.
    pub fn handlers(&self) -> usize {
        self.concurrency
    }
}
