use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How far the virtual clock has been moved; what lasts by it ends early when a test moves it.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    shift_ms: watch::Receiver<i64>,
}

impl Clock {
    pub(crate) fn new(shift_ms: watch::Receiver<i64>) -> Self {
        Self { shift_ms }
    }

    /// Ends when `duration` has passed, by the running clock and what tests have moved it meanwhile.
    pub(crate) async fn pass(&self, duration: Duration) {
        let mut shift_ms = self.shift_ms.clone();
        let started = Instant::now();
        let shift_then = *shift_ms.borrow_and_update();
        loop {
            let shift = *shift_ms.borrow_and_update() - shift_then;
            let passed =
                started.elapsed() + Duration::from_millis(u64::try_from(shift).unwrap_or(0));
            let Some(left) = duration.checked_sub(passed).filter(|left| !left.is_zero()) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                changed = shift_ms.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep(left).await;
                    }
                }
            }
        }
    }
}
