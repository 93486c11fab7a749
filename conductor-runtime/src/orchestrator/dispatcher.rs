//! Events: declares the subscriptions of this binary, and writes events that were emitted in transactions to the log,
//! which starts tasks and wakes waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor_postgres::RetryBudget;
use conductor_postgres::store::dispatch;
use serde_json::json;
use tokio::sync::Notify;

use super::service::{Failures, Service, Until, settled};
use crate::client::Conductor;
use crate::error::Result;
use crate::registry::Registry;

/// How long an event waits at most if no notification arrives.
const POLL: Duration = Duration::from_secs(1);
/// The most events, and the most waits of each name, in one transaction.
const PORTION: i32 = 1000;
/// The longest time for which events are kept, 100 years. Sums with longer times could overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);
/// How long one transaction may take before its connection is closed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a start waits for locks that keep events out of the log.
const CATCH_UP: Duration = Duration::from_secs(5);
/// The pause before names that other transactions have locked are tried again.
const LOCKED: Duration = Duration::from_millis(100);
const KEPT_OUT: &str = "somebody has held the lock of an event's name for long (pg_locks, locktype advisory); \
     what is emitted under this name waits until it is free";

/// Returns the crates of this binary and the subscriptions of its tasks, in the form that
/// `conductor.declare_subscriptions` reads.
pub(crate) fn declared_subscriptions(registry: &Registry) -> (Vec<String>, serde_json::Value) {
    let owners: BTreeSet<String> = registry.tasks().map(|task| task.owner()).collect();
    let subscriptions: serde_json::Value = registry
        .tasks()
        .flat_map(|task| {
            task.subscriptions
                .iter()
                .enumerate()
                .map(move |s| (task, s))
        })
        .map(|(task, (n, subscription))| {
            json!({
                "task": task.name,
                "event": subscription.event,
                "n": n,
                "filter": subscription.filter_json(),
                "event_version": subscription.event_version,
                "owner": task.owner(),
            })
        })
        .collect();
    (owners.into_iter().collect(), subscriptions)
}

/// Declares which events start tasks of this binary, and removes subscriptions that it no longer has.
pub(super) async fn declare(conductor: &Conductor, task_ids: &[i32]) -> Result<()> {
    let (owners, subscriptions) = declared_subscriptions(conductor.registry());
    let events: serde_json::Value = conductor
        .registry()
        .events()
        .map(|event| {
            json!({
                "name": event.name,
                "version": event.version,
                "package": event.package,
                "place": event.place.to_string(),
                "docs": event.docs,
                "schema": event.schema(),
                "keep_ms": event.keep.min(LONGEST).as_millis() as i64,
            })
        })
        .collect();
    let database = conductor.database();
    dispatch::declare_subscriptions(database, &owners, task_ids, &subscriptions, &events).await?;
    Ok(())
}

/// Writes to the log what was emitted while no orchestrator ran, before the first deadline of a wait is evaluated: a
/// wait finds only events in the log. Events that cannot be dispatched for long do not block the start; the
/// [`Dispatcher`] retries them.
pub(super) async fn catch_up(conductor: &Conductor) {
    let mut budget = RetryBudget::new(CATCH_UP);
    let began = Instant::now();
    loop {
        match dispatch(conductor).await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => return,
            // Usually another process that is dispatching them.
            Ok(None) if began.elapsed() < CATCH_UP => tokio::time::sleep(LOCKED).await,
            Ok(None) => {
                tracing::warn!("{KEPT_OUT}; waits whose time is over may end without it");
                return;
            }
            Err(error) if budget.may_retry(&error).await => {}
            Err(error) => {
                if !conductor.outage().met(&error) {
                    tracing::warn!(%error,
                        "events cannot be dispatched at the start; trying again later, and waits whose time is over may end without them");
                }
                return;
            }
        }
    }
}

/// Dispatches events after each notification, and every second. Every orchestrator does this; the database dispatches
/// each event once.
pub(super) struct Dispatcher {
    conductor: Conductor,
    told: Arc<Notify>,
    failures: Failures,
    /// Whether the locks of names could not be obtained in the last round.
    kept_out: bool,
}

impl Dispatcher {
    pub(super) fn new(conductor: Conductor) -> Self {
        Self {
            told: conductor.notifier().events(),
            conductor,
            failures: Failures::default(),
            kept_out: false,
        }
    }
}

impl Service for Dispatcher {
    const UNTIL: Until = Until::Shutdown;

    async fn round(&mut self, _holder: Option<i64>) -> Duration {
        let done = dispatch(&self.conductor).await;
        let text = "events cannot be dispatched; trying again";
        self.failures.note(self.conductor.outage(), &done, text);
        let Ok(is_empty) = done else {
            return POLL;
        };
        if is_empty.is_none() && !self.kept_out {
            tracing::warn!("{KEPT_OUT}");
        }
        self.kept_out = is_empty.is_none();
        match is_empty {
            Some(false) => Duration::ZERO,
            _ => POLL,
        }
    }

    async fn hint(&mut self) {
        self.told.notified().await;
    }
}

/// Returns whether nothing is left; `None` if the locks of the names cannot be obtained.
async fn dispatch(conductor: &Conductor) -> Result<Option<bool>, sqlx::Error> {
    let mut session = conductor.database().session().await?;
    let done = tokio::time::timeout(PATIENCE, dispatch::dispatch(&mut session, PORTION)).await;
    settled(session, done, PATIENCE).await
}
