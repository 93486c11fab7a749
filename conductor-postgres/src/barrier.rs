use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The longest wait for a runtime that may have no free thread.
const MOST: Duration = Duration::from_millis(1);

/// Waits until another runtime has begun what it already has to do, or for a moment. The results can then be written
/// together; otherwise each round trip would begin with the first result that is ready.
#[derive(Debug)]
pub struct Barrier {
    passed: JoinHandle<()>,
    until: Instant,
}

impl Barrier {
    /// Creates a barrier that lasts until this runtime has run what was spawned on it so far.
    pub fn behind(runtime: &Handle) -> Self {
        Self {
            passed: runtime.spawn(async {}),
            until: Instant::now() + MOST,
        }
    }

    /// Returns whether it has been passed.
    pub fn is_over(&self) -> bool {
        self.passed.is_finished() || Instant::now() >= self.until
    }

    /// Waits until it has been passed.
    pub async fn over(&mut self) {
        if !self.is_over() {
            let _ = tokio::time::timeout_at(self.until.into(), &mut self.passed).await;
        }
    }
}
