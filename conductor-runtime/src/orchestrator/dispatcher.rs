//! Events: declares the subscriptions of this binary, and brings what was emitted in transactions to
//! those who wait for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use crate::client::Conductor;
use crate::db::Patience;
use crate::error::Result;
use crate::event::EventDefinition;
use crate::registry::Registry;
use crate::worker::{Control, Phase};

/// Where notifications do not come, an event is found after this time.
const POLL: Duration = Duration::from_secs(1);
/// Most events, and most waits of each name, in one transaction.
const PORTION: i32 = 1000;
/// Events are kept a hundred years at most; the sums of longer times could overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);
/// How long one transaction may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a start waits for what keeps events out of the log.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Until names that others have locked are looked at again.
const LOCKED: Duration = Duration::from_millis(100);
const KEPT_OUT: &str = "somebody has held the lock of an event's name for long (pg_locks, locktype advisory); \
     what is emitted under this name waits until it is free";

/// The crates that this binary is made of, and the events that its tasks are subscribed to, as
/// `conductor.declare_subscriptions` wants it.
pub(crate) fn declared_subscriptions() -> (Vec<String>, serde_json::Value) {
    let registry = Registry::global();
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

/// Declares which events start tasks of this binary, and takes away what no longer does.
pub(super) async fn declare(conductor: &Conductor, task_ids: &[i32]) -> Result<()> {
    let (owners, subscriptions) = declared_subscriptions();
    let events: serde_json::Value = EventDefinition::all()
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
    let declare = sqlx::query("select conductor.declare_subscriptions($1, $2, $3, $4)")
        .bind(owners)
        .bind(task_ids)
        .bind(subscriptions)
        .bind(events);
    conductor.database().run(declare).await?;
    Ok(())
}

/// Brings into the log what was emitted while no orchestrator was there, before the first deadline of a
/// wait is looked at: a wait finds no event that is not there. What cannot be dispatched for long keeps no worker
/// from starting: [`keep`] tries it again.
pub(super) async fn catch_up(conductor: &Conductor) {
    let mut patience = Patience::new(CATCH_UP);
    let began = Instant::now();
    loop {
        match dispatch(conductor).await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => return,
            // Mostly another process that dispatches them.
            Ok(None) if began.elapsed() < CATCH_UP => tokio::time::sleep(LOCKED).await,
            Ok(None) => {
                tracing::warn!("{KEPT_OUT}; waits whose time is over may end without it");
                return;
            }
            Err(error) if patience.again(&error).await => {}
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

/// Dispatches when it is told to, and looks each second. Every orchestrator does; the database hands
/// out each event once.
pub(super) async fn keep(conductor: Conductor, mut control: watch::Receiver<Control>) {
    let told = conductor.notifier().events();
    let mut failed = false;
    let mut kept_out = false;
    loop {
        let pause = match dispatch(&conductor).await {
            Ok(done) => {
                failed = false;
                if done.is_none() && !kept_out {
                    tracing::warn!("{KEPT_OUT}");
                }
                kept_out = done.is_none();
                if done == Some(false) {
                    Duration::ZERO
                } else {
                    POLL
                }
            }
            Err(error) => {
                if !conductor.outage().met(&error) && !failed {
                    tracing::warn!(%error, "events cannot be dispatched; trying again");
                }
                failed = true;
                POLL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told.notified() => {}
            () = stopping(&mut control) => {
                // What comes now is for those who stay.
                return std::future::pending().await;
            }
        }
    }
}

async fn stopping(control: &mut watch::Receiver<Control>) {
    // Without a sender the orchestrator is gone, and this with it.
    let _ = control
        .wait_for(|control| control.phase != Phase::Working)
        .await;
}

/// Whether nothing is left; none where the locks of the names are not to be had.
async fn dispatch(conductor: &Conductor) -> std::result::Result<Option<bool>, sqlx::Error> {
    let mut session = conductor.database().session().await?;
    let dispatched = sqlx::query_scalar("select conductor.dispatch($1)")
        .bind(PORTION)
        .fetch_one(&mut *session);
    match tokio::time::timeout(PATIENCE, dispatched).await {
        Ok(done) => session.settle(done).await,
        Err(_) => {
            // The statement may still be under way; nobody else must get this connection.
            session.close_on_drop();
            Err(sqlx::Error::Protocol(format!(
                "no answer within {PATIENCE:?}"
            )))
        }
    }
}
