use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// No longer than this is waited for a runtime that may have no free thread.
const MOST: Duration = Duration::from_millis(1);

/// Behind what another runtime has to do: it is over when that has been begun, or after a moment. What comes of it
/// travels together then; across threads, each round trip would else begin with the first that is ready.
#[derive(Debug)]
pub(crate) struct Barrier {
    passed: JoinHandle<()>,
    until: Instant,
}

impl Barrier {
    pub(crate) fn behind(runtime: &Handle) -> Self {
        Self {
            passed: runtime.spawn(async {}),
            until: Instant::now() + MOST,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.passed.is_finished() || Instant::now() >= self.until
    }

    pub(crate) async fn over(&mut self) {
        if !self.is_over() {
            let _ = tokio::time::timeout_at(self.until.into(), &mut self.passed).await;
        }
    }
}
