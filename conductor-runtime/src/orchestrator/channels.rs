//! How the parts of a running orchestrator reach one another.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::core::End;
use super::retirement::Retirement;
use crate::worker::{Control, Signals};

/// The channels of one orchestrator.
pub(super) struct Channels {
    /// The lease and the phase. The heartbeat and the shutdown write it, all others read it.
    pub(super) control: watch::Sender<Control>,
    /// The same for the workers, and what they send.
    pub(super) signals: Signals,
    /// Closed when the last pipeline has ended.
    pub(super) at_work: watch::Sender<()>,
    /// The heartbeat asks for the retirement, the retirement says when it is done.
    pub(super) retirement: watch::Sender<Retirement>,
    /// Set to true by the handle when the work is to end.
    pub(super) stop: watch::Sender<bool>,
    /// How the work has ended. Written by the core, read by the handle.
    pub(super) end: watch::Sender<End>,
}

impl Channels {
    /// Opens the channels of an orchestrator that has this lease.
    pub(super) fn open(lease: Control) -> Self {
        let (control, heard) = watch::channel(lease);
        Self {
            control,
            signals: Signals {
                control: heard,
                busy: watch::Sender::new(0),
                lease_lost: Arc::new(Notify::new()),
            },
            at_work: watch::Sender::new(()),
            retirement: watch::Sender::new(Retirement::NotAsked),
            stop: watch::Sender::new(false),
            end: watch::Sender::new(End::default()),
        }
    }
}
