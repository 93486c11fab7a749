use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::side;
use crate::error::{Error, Result};
use crate::worker::Held;

/// How long a process that has ended its work may still take where handlers hold its threads.
const GRACE: Duration = Duration::from_secs(5);

/// SIGTERM and SIGINT, heard on a thread of its own: handlers may block all others.
pub(super) struct Shutdown {
    told: watch::Receiver<bool>,
    /// Told when the orderly end is done and handlers are left that do not yield.
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
            // Without signals there is nothing to heed.
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

    /// Ends with the first signal; the second one ends the process.
    pub(super) async fn first(&mut self) {
        if self.told.wait_for(|told| *told).await.is_err() {
            // Its thread is gone, which only a fault of ours does.
            std::future::pending().await
        }
    }

    /// The work has ended in order, but these hold threads: where they go on to, the process ends all the same.
    pub(super) fn left_behind(self, held: Vec<Held>) {
        // Nobody listens where no signal has come.
        let _: std::result::Result<(), Vec<Held>> = self.over.send(held);
    }
}

/// Passes on the first signal; stays for the second one until the process ends.
async fn heed(mut signals: Signals, told: watch::Sender<bool>, over: oneshot::Receiver<Vec<Held>>) {
    tokio::select! {
        () = signals.next() => {}
        // The orchestrator has ended by itself.
        () = told.closed() => return,
    }
    tracing::info!("shutting down; a second signal ends the process at once");
    told.send_replace(true);
    let left_behind = async {
        let held = over.await.unwrap_or_default();
        tokio::time::sleep(GRACE).await;
        // Without them the process ends by itself, when the program behind `run` does.
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
