use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, oneshot};

use crate::error::{Error, Result};
use crate::worker::Beside;

/// A thread with an async runtime of its own, for work that must continue even if handlers block their threads.
/// Dropping this value ends the thread and drops what runs on it.
#[derive(Debug)]
pub(super) struct Side {
    beside: Beside,
    finish: Arc<Notify>,
    ended: oneshot::Receiver<()>,
    // Dropping it ends the thread.
    _alive: oneshot::Sender<()>,
}

impl Side {
    pub(super) fn start(name: &str) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Error::Invalid(format!("cannot start the thread {name:?}: {error}"))
        };
        let has_ended = Arc::new(AtomicBool::new(false));
        let (alive, dropped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let finish = Arc::new(Notify::new());
        let (over, finished) = (Arc::clone(&has_ended), Arc::clone(&finish));
        let runtime = start(name, move |runtime| {
            runtime.block_on(async {
                tokio::select! {
                    _ = dropped => {}
                    () = finished.notified() => {}
                }
            });
            over.store(true, Ordering::Release);
            // Does not wait for a DNS lookup that never gets an answer.
            runtime.shutdown_background();
            let _: Result<(), ()> = ending.send(());
        })
        .map_err(cannot)?;
        let beside = Beside {
            runtime,
            ended: has_ended,
        };
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

    /// Returns a signal that ends the thread without dropping this value.
    pub(super) fn finish(&self) -> Arc<Notify> {
        Arc::clone(&self.finish)
    }

    /// Runs a future on this thread, and returns its result.
    pub(super) fn run<T: Send + 'static, F>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let done = self.runtime().spawn(work);
        async { done.await.map_err(|error| Error::Broken(error.to_string())) }
    }

    /// Ends the thread and waits until it has ended.
    pub(super) async fn end(self) {
        let Self { ended, _alive, .. } = self;
        drop(_alive);
        // The sender is gone if the thread has already ended.
        let _ = ended.await;
    }
}

/// Starts a thread that has an async runtime of its own, and returns the runtime's handle. The runtime is created on
/// that thread: if the thread could not be started, a runtime created here would be dropped inside another runtime,
/// which panics.
pub(super) fn start(
    name: &str,
    work: impl FnOnce(Runtime) + Send + 'static,
) -> std::io::Result<Handle> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread_name = name.to_owned();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let made = Builder::new_current_thread()
                .enable_all()
                .thread_name(thread_name)
                .build();
            let (runtime, said) = match made {
                Ok(runtime) => {
                    let handle = runtime.handle().clone();
                    (Some(runtime), Ok(handle))
                }
                Err(error) => (None, Err(error)),
            };
            // If the receiver is gone, the process is about to end.
            let _: Result<(), _> = tell.send(said);
            if let Some(runtime) = runtime {
                work(runtime);
            }
        })?;
    told.recv().map_err(std::io::Error::other)?
}
