use std::time::Duration;

/// When a failed execution is tried again.
///
/// The delay before try `n + 1` is `backoff_initial * 2^(n-1)`, at most `backoff_max`, made
/// longer or shorter at random by up to the share `jitter`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// How many attempts may fail before the execution is `failed`. Default 3.
    pub max_attempts: u32,
    /// The delay after the first failure. Default 15 s.
    pub backoff_initial: Duration,
    /// The longest delay. Default 2 h.
    pub backoff_max: Duration,
    /// From 0 (exact) to 1. Default 0.1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Three attempts, 15 s doubling to 2 h, a tenth of jitter.
    pub const DEFAULT: Self = Self {
        max_attempts: 3,
        backoff_initial: Duration::from_secs(15),
        backoff_max: Duration::from_secs(2 * 60 * 60),
        jitter: 0.1,
    };
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How long finished executions are kept before the pruner removes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Completed ones. Default 7 days.
    pub completed: Duration,
    /// Failed and cancelled ones. Default 30 days.
    pub failed: Duration,
}

impl Keep {
    /// Completed executions 7 days, failed and cancelled ones 30 days.
    pub const DEFAULT: Self = Self {
        completed: Duration::from_secs(7 * 24 * 60 * 60),
        failed: Duration::from_secs(30 * 24 * 60 * 60),
    };
}

impl Default for Keep {
    fn default() -> Self {
        Self::DEFAULT
    }
}
