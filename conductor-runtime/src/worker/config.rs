/// How many handlers of a queue run at once in this process by default.
pub const DEFAULT_CONCURRENCY: usize = 50;

/// The configuration of a worker: a queue that this process serves.
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
    /// Serves this queue with at most 50 handlers at once.
    ///
    /// A name has 1 to 100 bytes, no control characters, and no white space at its ends. `a-b`,
    /// `a_b` and `A-B` are three different queues.
    pub fn queue(name: impl Into<String>) -> Self {
        Self {
            queue: name.into(),
            concurrency: DEFAULT_CONCURRENCY,
        }
    }

    /// Sets how many handlers run at once in this process; at least 1. Default: 50.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// Returns the queue's name.
    pub fn queue_name(&self) -> &str {
        &self.queue
    }

    /// Returns how many handlers run at once at most.
    pub fn handlers(&self) -> usize {
        self.concurrency
    }
}
