use std::sync::Arc;

use tokio::sync::Semaphore;

use super::soon;

/// Where handlers stand until the test lets them on.
#[derive(Debug)]
pub struct Gate {
    entered: Semaphore,
    opened: Semaphore,
    dropped: Semaphore,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            entered: Semaphore::new(0),
            opened: Semaphore::new(0),
            dropped: Semaphore::new(0),
        })
    }

    /// The handler's side.
    pub async fn pass(&self) {
        struct Guard<'g>(&'g Semaphore);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.add_permits(1);
            }
        }
        self.entered.add_permits(1);
        let guard = Guard(&self.dropped);
        self.opened.acquire().await.unwrap().forget();
        std::mem::forget(guard);
    }

    /// Waits until so many more handlers have come.
    pub async fn entered(&self, handlers: u32) {
        let arrival = self.entered.acquire_many(handlers);
        soon("a handler at the gate", arrival)
            .await
            .unwrap()
            .forget();
    }

    /// Lets so many handlers on.
    pub fn open(&self, handlers: usize) {
        self.opened.add_permits(handlers);
    }

    /// Waits until one more handler was dropped at the gate.
    pub async fn dropped(&self) {
        let end = self.dropped.acquire();
        soon("a handler's end", end).await.unwrap().forget();
    }

    /// Whether a handler was dropped at the gate.
    pub fn has_dropped(&self) -> bool {
        self.dropped.available_permits() > 0
    }

    /// How many handlers have come and were not awaited.
    pub fn unseen(&self) -> usize {
        self.entered.available_permits()
    }
}
