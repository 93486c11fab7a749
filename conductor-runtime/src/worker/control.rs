use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::boot_instant::BootInstant;

/// What the orchestrator tells its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    /// The identity under which claims are made; none while the lease is in doubt.
    pub(crate) orchestrator: Option<i64>,
    /// When the trust in the lease ends. A process that was stopped itself, or slept with its machine, wakes
    /// behind that, before anybody can have said so.
    pub(crate) until: BootInstant,
    pub(crate) phase: Phase,
}

impl Control {
    /// The identity under which work may begin now.
    pub(crate) fn holder(&self) -> Option<i64> {
        self.orchestrator
            .filter(|_| BootInstant::now() < self.until)
    }
}

/// Where in its life the orchestrator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Claims and runs.
    Working,
    /// Claims no more; running handlers go on.
    Stopping,
    /// The deadline is over: handlers are dropped, and what they held is released.
    Halting,
}

/// How orchestrator and workers speak.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    pub(crate) control: watch::Receiver<Control>,
    /// How many workers of this process have something to do; what drain watches.
    pub(crate) busy: watch::Sender<usize>,
    /// A worker was told that the orchestrator's lease is over.
    pub(crate) lease_lost: Arc<Notify>,
}
