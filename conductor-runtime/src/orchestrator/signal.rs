use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::side;
use crate::error::{Error, Result};
use crate::worker::Held;

/// How long handlers may still hold threads of a process that has ended its work.
const GRACE: Duration = Duration::from_secs(5);

/// SIGTERM and SIGINT, received on a thread of their own, because handlers may block all others.
pub(super) struct Shutdown {
    told: watch::Receiver<bool>,
    /// Receives the handlers that are left after the orderly end and do not yield.
    over: oneshot::Sender<Vec<Held>>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Shutdown {
    pub(super) fn listen() -> Result<Self> {
        let cannot =
            |error: std::io::Error| Error::Invalid(format!("cannot handle signals: {error}"));
        let (tell, told) = watch::channel(false);
        let (over, ended) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        let runtime = side::start("conductor-signal", move |runtime| {
            // Without signals there is nothing to wait for.
            if let Ok(signals) = runtime.block_on(begun) {
                runtime.block_on(heed(signals, tell, ended));
            }
        })
        .map_err(cannot)?;
        let signals = {
            let _inside = runtime.enter();
            Signals::listen().map_err(cannot)?
        };
        let _: std::result::Result<(), Signals> = begin.send(signals);
        Ok(Self { told, over })
    }

    /// Waits for the first signal. A second one ends the process.
    pub(super) async fn first(&mut self) {
        if self.told.wait_for(|told| *told).await.is_err() {
            // Its thread is gone, which only a bug can cause.
            std::future::pending().await
        }
    }

    /// Ends the process after a grace period if these handlers, left after the orderly end, hold
    /// threads.
    pub(super) fn left_behind(self, held: Vec<Held>) {
        // Without a signal nothing receives this.
        let _: std::result::Result<(), Vec<Held>> = self.over.send(held);
    }
}

/// Passes on the first signal, then waits for the second one until the process ends.
async fn heed(mut signals: Signals, told: watch::Sender<bool>, over: oneshot::Receiver<Vec<Held>>) {
    tokio::select! {
        () = signals.next() => {}
        // The orchestrator has ended without a signal.
        () = told.closed() => return,
    }
    tracing::info!("shutting down; a second signal ends the process at once");
    told.send_replace(true);
    let left_behind = async {
        let held = over.await.unwrap_or_default();
        tokio::time::sleep(GRACE).await;
        // If no handler holds a thread, the process ends by itself when the program after `run`
        // does.
        if !held.iter().any(Held::holds) {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = signals.next() => std::process::exit(130),
        () = left_behind => {
            tracing::warn!("handlers hold their threads and do not yield; the process ends without them");
            std::process::exit(0)
        }
    }
}
