use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::boot_instant::BootInstant;

/// What the orchestrator sends to its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    /// The orchestrator's id, under which claims are made; `None` while the lease is in doubt.
    pub(crate) orchestrator: Option<i64>,
    /// When the lease is no longer trusted. A process that was stopped, or slept with its machine,
    /// may wake after that, before `orchestrator` could be cleared.
    pub(crate) until: BootInstant,
    pub(crate) phase: Phase,
}

impl Control {
    /// Returns the orchestrator's id if work may begin now.
    pub(crate) fn holder(&self) -> Option<i64> {
        self.orchestrator
            .filter(|_| BootInstant::now() < self.until)
    }
}

/// The phase of the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Claims and runs.
    Working,
    /// Claims nothing more; running handlers continue.
    Stopping,
    /// The deadline is over: handlers are dropped, and what they held is released.
    Halting,
}

/// The channels between orchestrator and workers.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    pub(crate) control: watch::Receiver<Control>,
    /// How many workers of this process have something to do; draining waits until it is zero.
    pub(crate) busy: watch::Sender<usize>,
    /// Notified when the database tells a worker that the orchestrator's lease is over.
    pub(crate) lease_lost: Arc<Notify>,
}
