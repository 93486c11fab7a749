use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::error::{Error, Result};
use crate::worker::Beside;

/// A thread with a runtime of its own, for what must go on whatever handlers do to the threads of theirs. It
/// ends with this value, and drops what ran on it.
#[derive(Debug)]
pub(super) struct Side {
    beside: Beside,
    finish: Arc<Notify>,
    ended: oneshot::Receiver<()>,
    // Dropped, it ends the thread.
    _alive: oneshot::Sender<()>,
}

impl Side {
    pub(super) fn start(name: &str) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Error::Invalid(format!("cannot start the thread {name:?}: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(name)
            .build()
            .map_err(cannot)?;
        let beside = Beside {
            runtime: runtime.handle().clone(),
            ended: Arc::new(AtomicBool::new(false)),
        };
        let (alive, dropped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let finish = Arc::new(Notify::new());
        let (over, finished) = (Arc::clone(&beside.ended), Arc::clone(&finish));
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = dropped => {}
                        () = finished.notified() => {}
                    }
                });
                over.store(true, Ordering::Release);
                // Without waiting for a look-up of names that the network has swallowed.
                runtime.shutdown_background();
                let _: Result<(), ()> = ending.send(());
            })
            .map_err(cannot)?;
        Ok(Self {
            beside,
            finish,
            ended,
            _alive: alive,
        })
    }

    pub(super) fn beside(&self) -> &Beside {
        &self.beside
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.beside.runtime
    }

    /// Ends the thread also where nobody drops this value.
    pub(super) fn finish(&self) -> Arc<Notify> {
        Arc::clone(&self.finish)
    }

    /// Runs this there and gives what comes of it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let done = self.runtime().spawn(work).await;
        done.map_err(|error| Error::Broken(error.to_string()))
    }

    /// Ends the thread and waits for its end.
    pub(super) async fn end(self) {
        let Self { ended, _alive, .. } = self;
        drop(_alive);
        // Nobody sends where the thread is gone already.
        let _ = ended.await;
    }
}
