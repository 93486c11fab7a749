use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};

use super::handle::wind_down;
use super::signal::Shutdown;
use crate::client::Conductor;
use crate::db::Patience;
use crate::worker::{Control, Phase, Pipeline};

/// How long a process that ends tries to give its lease back.
const SIGN_OFF: Duration = Duration::from_secs(5);
/// How long its connections may take to be closed.
const CLOSE: Duration = Duration::from_millis(500);

/// How the orchestrator's work has ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// In order.
    Stopped,
    /// A part of it has ended by itself.
    Broken(String),
}

/// What makes the orchestrator end its work in order.
pub(super) struct Orders {
    /// True when somebody calls `stop`.
    pub(super) stop: watch::Receiver<bool>,
    /// Where the process listens to signals.
    pub(super) signals: Option<Shutdown>,
    /// Ends with the runtime of the handlers.
    pub(super) users: oneshot::Receiver<()>,
    pub(super) sentinel: AbortHandle,
    /// The application's, which it may close.
    pub(super) pool: PgPool,
}

impl Orders {
    /// Of the runtime in which this is called.
    pub(super) fn new(
        stop: watch::Receiver<bool>,
        signals: Option<Shutdown>,
        pool: PgPool,
    ) -> Self {
        let (alive, users) = oneshot::channel();
        let sentinel = tokio::spawn(async move {
            let _alive: oneshot::Sender<()> = alive;
            std::future::pending::<()>().await;
        });
        Self {
            stop,
            signals,
            users,
            sentinel: sentinel.abort_handle(),
            pool,
        }
    }

    /// Ends when one is given: true where handlers may go on until the deadline.
    async fn given(&mut self) -> bool {
        let stop = async {
            if self.stop.wait_for(|stop| *stop).await.is_err() {
                // The handle is dropped, and this with it.
                std::future::pending().await
            }
        };
        let signal = async {
            match &mut self.signals {
                Some(signals) => signals.first().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop => true,
            () = signal => true,
            _ = &mut self.users => {
                tracing::warn!("the runtime of the handlers has ended without `Handle::stop`; what this process held is given back");
                false
            }
            () = self.pool.close_event() => {
                tracing::warn!("the application has closed its pool; the workers end and give back what they held");
                false
            }
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.sentinel.abort();
    }
}

/// The orchestrator's work. It lives on a thread beside those of the handlers, and the lease on another.
pub(super) struct Core {
    pub(super) conductor: Conductor,
    pub(super) control: watch::Sender<Control>,
    pub(super) pipelines: Vec<Pipeline>,
    /// Closed when the last pipeline has ended.
    pub(super) at_work: watch::Sender<()>,
    /// The chores, the scheduler, the dispatcher of events, the end for a newer build.
    pub(super) keepers: JoinSet<()>,
    /// The heartbeat.
    pub(super) lease: JoinHandle<()>,
    pub(super) orders: Orders,
    pub(super) shutdown_deadline: Duration,
    /// Whether it still works, and how it ended.
    pub(super) end: watch::Sender<Option<End>>,
    /// The threads, which end with the work.
    pub(super) finish: [Arc<Notify>; 2],
}

impl Core {
    pub(super) async fn run(mut self) {
        let mut pipelines = JoinSet::new();
        for pipeline in std::mem::take(&mut self.pipelines) {
            let working = self.at_work.subscribe();
            pipelines.spawn(async move {
                let left = pipeline.run().await;
                drop(working);
                left
            });
        }
        let mut left = 0;
        let patient = loop {
            let ended = tokio::select! {
                patient = self.orders.given() => break patient,
                Some(ended) = pipelines.join_next() => ended.map(|more| left += more),
                Some(ended) = self.keepers.join_next() => ended,
                ended = &mut self.lease => {
                    // Polled again it would panic.
                    self.lease = tokio::spawn(std::future::pending());
                    ended
                }
            };
            self.tell_broken(ended);
        };
        let deadline = if patient {
            self.shutdown_deadline
        } else {
            Duration::ZERO
        };
        wind_down(&self.control, &self.at_work, deadline).await;
        while let Some(ended) = pipelines.join_next().await {
            left += ended.unwrap_or_default();
        }
        self.keepers.abort_all();
        self.lease.abort();
        // A beat that is under way must not come behind the end of the lease: it would take another one.
        let _ = (&mut self.lease).await;
        let orchestrator = self.control.borrow().orchestrator;
        if let Some(id) = orchestrator {
            self.sign_off(id).await;
        }
        self.conductor.database().close(CLOSE).await;
        if left > 0
            && let Some(signals) = self.orders.signals.take()
        {
            // Not by who waits for the end: its thread may be one of theirs.
            signals.left_behind();
        }
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(End::Stopped);
            first
        });
        for thread in &self.finish {
            thread.notify_one();
        }
    }

    /// What this process holds is recovered by the others after its lease, where nobody stops it before.
    fn tell_broken(&self, ended: Result<(), JoinError>) {
        if self.control.borrow().phase != Phase::Working {
            // They end as they were told to.
            return;
        }
        let reason = match ended {
            Err(error) => error.to_string(),
            Ok(()) => "a worker has ended".to_owned(),
        };
        self.end.send_replace(Some(End::Broken(reason)));
    }

    /// Everything is written by now; where nothing can be said any more, the lease ends by itself.
    async fn sign_off(&self, id: i64) {
        let mut patience = Patience::new(SIGN_OFF);
        loop {
            let stop = sqlx::query("select conductor.stop_orchestrator($1)").bind(id);
            match patience.ask(self.conductor.database(), stop).await {
                Ok(_) => return,
                Err(error) if patience.again(&error).await => {}
                Err(error) => {
                    tracing::warn!(%error, "the lease could not be given back; it ends by itself");
                    return;
                }
            }
        }
    }
}

/// Ends when the work has, and says how.
pub(super) async fn ended(mut end: watch::Receiver<Option<End>>) -> End {
    let told = end.wait_for(Option::is_some).await;
    match told.ok().and_then(|end| end.clone()) {
        Some(end) => end,
        None => End::Broken("its thread has ended".to_owned()),
    }
}
