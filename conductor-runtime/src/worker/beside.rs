use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

/// The runtime separate from that of the handlers, on which everything is written.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    pub(crate) runtime: Handle,
    /// Set before what ran there is dropped.
    pub(crate) ended: Arc<AtomicBool>,
}

impl Beside {
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
