use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::Serving;
use conductor_postgres::store::leases;
use sqlx::postgres::PgPool;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};

use super::retirement::wind_down;
use super::signal::Shutdown;
use crate::client::Conductor;
use crate::worker::{Control, Held, Phase, QueueWorker};

/// How long a process that ends tries to give up its lease.
const SIGN_OFF: Duration = Duration::from_secs(5);
/// How long its connections may take to close.
const CLOSE: Duration = Duration::from_millis(500);
/// How long outcomes are written at least after the application has closed its pool.
const AT_LEAST: Duration = Duration::from_secs(5);

/// The progress of the orchestrator's end.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    /// Why it does not work as it should: a part of it has ended by itself, or its pool is closed.
    pub(super) broken: Option<String>,
    /// Whether everything is written and released, as far as possible.
    pub(super) done: bool,
}

/// A reason to end the work.
enum Order {
    /// Handlers may continue until the deadline.
    Stop,
    /// The runtime of the handlers has ended, so nothing can run any more.
    RuntimeEnded,
    PoolClosed,
}

const POOL_CLOSED: &str = "the application has closed its pool, so the workers have ended and given back what they held; \
     close it behind the end of the orchestrator";

/// What can make the orchestrator end its work.
pub(super) struct Orders {
    /// True after a call of `stop`.
    pub(super) stop: watch::Receiver<bool>,
    /// The process's signals, if it listens to them.
    pub(super) signals: Option<Shutdown>,
    /// Closed when the runtime of the handlers ends.
    pub(super) users: oneshot::Receiver<()>,
    pub(super) sentinel: AbortHandle,
    /// The application's pool, which it may close.
    pub(super) pool: PgPool,
}

impl Orders {
    /// Watches the async runtime in which this is called.
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

    /// Waits for an order.
    async fn given(&mut self) -> Order {
        let stop = async {
            if self.stop.wait_for(|stop| *stop).await.is_err() {
                // The handle is dropped, and this future will be dropped with it.
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
            biased;
            () = self.pool.close_event() => Order::PoolClosed,
            () = stop => Order::Stop,
            () = signal => Order::Stop,
            _ = &mut self.users => Order::RuntimeEnded,
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.sentinel.abort();
    }
}

/// The orchestrator's work. It runs on a thread separate from those of the handlers; the lease has another one.
pub(super) struct Core {
    pub(super) conductor: Conductor,
    pub(super) control: watch::Sender<Control>,
    pub(super) workers: Vec<QueueWorker>,
    /// Registers which tasks this process serves itself.
    pub(super) _serving: Serving,
    /// Closed when the last pipeline has ended.
    pub(super) at_work: watch::Sender<()>,
    /// The chores, the scheduler, the event dispatcher, and the drain for a newer build.
    pub(super) keepers: JoinSet<()>,
    /// The heartbeat.
    pub(super) lease: JoinHandle<()>,
    pub(super) orders: Orders,
    pub(super) shutdown_deadline: Duration,
    /// Whether it still works, and how it ended.
    pub(super) end: watch::Sender<End>,
    /// The threads that end with the work.
    pub(super) finish: Vec<Arc<Notify>>,
    /// Whether the connections are for this orchestrator alone, and are closed at its end.
    pub(super) closes: bool,
}

impl Core {
    pub(super) async fn run(mut self) {
        let mut workers = JoinSet::new();
        for pipeline in std::mem::take(&mut self.workers) {
            let working = self.at_work.subscribe();
            workers.spawn(async move {
                let left = pipeline.run().await;
                drop(working);
                left
            });
        }
        let mut left = Vec::new();
        let order = loop {
            let ended = tokio::select! {
                order = self.orders.given() => break order,
                Some(ended) = workers.join_next() => ended.map(|more| left.extend(more)),
                Some(ended) = self.keepers.join_next() => ended,
                ended = &mut self.lease => {
                    // A finished handle must not be polled again.
                    self.lease = tokio::spawn(std::future::pending());
                    ended
                }
            };
            self.tell_ended(ended);
        };
        left.extend(self.wind_down(order, &mut workers).await);
        self.keepers.abort_all();
        self.lease.abort();
        // A heartbeat in progress must end first: after the lease is given up, it would take a new one.
        let _ = (&mut self.lease).await;
        let orchestrator = self.control.borrow().orchestrator;
        if let Some(id) = orchestrator {
            self.sign_off(id).await;
        }
        if self.closes {
            self.conductor.database().close(CLOSE).await;
        } else {
            // What was cut off may still run on the server; it must not end behind the next one's back.
            self.keepers.shutdown().await;
            self.conductor.database().come_to_rest(CLOSE).await;
        }
        if !left.is_empty()
            && let Some(signals) = self.orders.signals.take()
        {
            // Not by the caller that waits for the end: a handler may hold its thread.
            signals.left_behind(left);
        }
        self.end.send_modify(|end| end.done = true);
        for thread in &self.finish {
            thread.notify_one();
        }
    }

    /// Ends the workers, and returns the handlers that did not end.
    async fn wind_down(&self, order: Order, workers: &mut JoinSet<Vec<Held>>) -> Vec<Held> {
        let deadline = match order {
            Order::Stop => self.shutdown_deadline,
            Order::RuntimeEnded => {
                tracing::warn!(
                    "the runtime of the handlers has ended without `Handle::stop`; what this process held is given back"
                );
                Duration::ZERO
            }
            Order::PoolClosed => {
                tracing::warn!("{POOL_CLOSED}");
                self.tell_broken(POOL_CLOSED.to_owned());
                Duration::ZERO
            }
        };
        let mut left = Vec::new();
        let ends = async {
            wind_down(&self.control, &self.at_work, deadline).await;
            while let Some(ended) = workers.join_next().await {
                match ended {
                    Ok(more) => left.extend(more),
                    Err(error) => self.tell_broken(error.to_string()),
                }
            }
        };
        // A program that closes its pool may be about to exit, with or without the database.
        let given_up = async {
            self.orders.pool.close_event().await;
            tokio::time::sleep(self.shutdown_deadline.max(AT_LEAST)).await;
        };
        let written = tokio::select! {
            () = ends => true,
            () = given_up => false,
        };
        if !written {
            tracing::warn!(
                "the pool is closed and the database does not answer; outcomes are left unwritten, and what they are of runs again"
            );
            workers.shutdown().await;
        }
        left
    }

    fn tell_ended(&self, ended: Result<(), JoinError>) {
        if self.control.borrow().phase != Phase::Working {
            // They ended because they were asked to.
            return;
        }
        self.tell_broken(match ended {
            Err(error) => error.to_string(),
            Ok(()) => "a worker has ended".to_owned(),
        });
    }

    /// Stores why the orchestrator is broken; the first reason is kept.
    fn tell_broken(&self, reason: String) {
        self.end.send_modify(|end| {
            end.broken.get_or_insert(reason);
        });
    }

    /// Gives up the lease. Everything is written by now; if this fails, the lease expires by itself.
    async fn sign_off(&self, id: i64) {
        let database = self.conductor.database();
        if let Err(error) = leases::give_up_within(database, id, SIGN_OFF).await {
            tracing::warn!(%error, "the lease could not be given back; it ends by itself");
        }
    }
}

/// Waits until the work has ended, or must be ended because it is broken.
pub(super) async fn over(mut end: watch::Receiver<End>) {
    // If the sender is gone, its thread is gone.
    let _ = end.wait_for(|end| end.done || end.broken.is_some()).await;
}

/// Waits until the work has ended, and returns why it was broken, if it was.
pub(super) async fn ended(mut end: watch::Receiver<End>) -> Result<(), String> {
    let told = end.wait_for(|end| end.done).await;
    let broken = match told {
        Ok(end) => end.broken.clone(),
        Err(_) => Some("its thread has ended".to_owned()),
    };
    broken.map_or(Ok(()), Err)
}
