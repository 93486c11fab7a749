use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::{Alone, latest_version};
use tokio::sync::watch;

use super::core::{End, ended, over};
use super::lease::Identity;
use super::side::Side;
use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::task::States;
use crate::worker::{Control, Phase};

/// The pause after a failed try to give up the lease.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A running orchestrator.
///
/// [`stop`](Self::stop) is the orderly end. If the handle is dropped instead, its threads end as soon as they can, as
/// in a crash, and what the process held is recovered after its lease.
#[derive(Debug)]
pub struct Handle {
    pub(super) conductor: Conductor,
    /// Set to true when the work is to end.
    pub(super) stop: watch::Sender<bool>,
    /// How the work has ended.
    pub(super) end: watch::Receiver<End>,
    pub(super) busy: watch::Receiver<usize>,
    /// The breaking migration for which this process has ended its work.
    pub(super) retired: watch::Receiver<Option<i32>>,
    pub(super) identity: Identity,
    pub(super) static_ids: Vec<i64>,
    /// The threads of the work and of the heartbeat. They end when this is dropped. That of the work is absent if
    /// it is kept for the next orchestrator.
    pub(super) threads: Vec<Side>,
    /// The application's values, kept here so that they are dropped on the application's own thread.
    pub(super) states: Arc<States>,
}

impl Handle {
    /// Waits until this process has drained for a newer build, and returns its migration.
    ///
    /// This happens if a newer build is about to apply a breaking migration that this build does not know. The
    /// orchestrator then drains by itself, as in [`stop`](Self::stop), whether this is called or not.
    /// [`Orchestrator::run`](super::Orchestrator::run) returns; a program that uses
    /// [`start`](super::Orchestrator::start) must end itself, so that its supervisor starts the newer build.
    pub async fn retired(&self) -> i32 {
        retirement(self.retired.clone()).await
    }

    /// Waits until nothing is due, running or undispatched.
    ///
    /// That covers the tasks that have a worker here, the ticks of schedules, and events.
    ///
    /// # Errors
    /// - [`Error::Broken`] as for [`stop`](Self::stop), because then nothing may be left that does the work.
    /// - [`Error::Database`] if a query fails.
    pub async fn drained(&self) -> Result<()> {
        let mut busy = self.busy.clone();
        let mut pause = Duration::from_millis(2);
        loop {
            let idle = async {
                // The sender is dropped when the work ends; the query below then decides.
                let _ = busy.wait_for(|count| *count == 0).await;
            };
            tokio::select! {
                () = idle => {}
                () = over(self.end.clone()) => {}
            }
            let broken = self.end.borrow().broken.clone();
            if let Some(reason) = broken {
                return Err(Error::Broken(reason));
            }
            let work: bool = sqlx::query_scalar("select conductor.has_work($1, $2, $3)")
                .bind(&self.identity.queue_ids)
                .bind(&self.identity.task_ids)
                .bind(&self.static_ids)
                .one(self.conductor.database())
                .await?;
            if !work && *busy.borrow() == 0 {
                return Ok(());
            }
            // A worker is about to find the work, or another process has it.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Shuts down in order.
    ///
    /// Claims nothing more, lets handlers run until the deadline, writes what has finished and releases the rest.
    ///
    /// If the database is unavailable, waits until it is back, because outcomes are never dropped. If the application
    /// has closed its pool, handlers are not waited for, and the writing of outcomes is given up after the shutdown
    /// deadline, or after 5 s if that is longer.
    ///
    /// # Errors
    /// [`Error::Broken`] if a part of the orchestrator had ended by itself, or if the application had closed its
    /// pool. All other parts have been ended in order nevertheless.
    pub async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        let end = ended(self.end).await;
        for thread in self.threads {
            thread.end().await;
        }
        drop(self.states);
        end.map_err(Error::Broken)
    }
}

/// Waits until the channel has the version of the breaking migration for which this process has ended.
pub(super) async fn retirement(mut retired: watch::Receiver<Option<i32>>) -> i32 {
    let version = retired.wait_for(Option::is_some).await.ok();
    match version.and_then(|version| *version) {
        Some(version) => version,
        // The sender is dropped only together with the handle.
        None => std::future::pending().await,
    }
}

/// Stops claiming and ends the pipelines: at once if nothing runs, at the deadline at the latest.
pub(super) async fn wind_down(
    control: &watch::Sender<Control>,
    at_work: &watch::Sender<()>,
    deadline: Duration,
) {
    control.send_if_modified(|control| {
        let first = control.phase == Phase::Working;
        if first {
            control.phase = Phase::Stopping;
        }
        first
    });
    if tokio::time::timeout(deadline, at_work.closed())
        .await
        .is_err()
    {
        tracing::warn!("the shutdown's deadline is over; running handlers are released");
        control.send_modify(|control| control.phase = Phase::Halting);
        at_work.closed().await;
    }
}

async fn leave(conductor: &Conductor, id: i64) -> std::result::Result<(), sqlx::Error> {
    let stop = sqlx::query("select conductor.stop_orchestrator($1)").bind(id);
    conductor.database().run(stop).await.map(drop)
}

/// Ends the work of this process once the heartbeat has found that a newer build is about to apply a breaking
/// migration, and announces when it has ended.
pub(super) async fn retire(
    conductor: Conductor,
    told: watch::Receiver<Option<i32>>,
    retired: watch::Sender<Option<i32>>,
    control: watch::Sender<Control>,
    at_work: watch::Sender<()>,
    deadline: Duration,
) {
    let version = retirement(told).await;
    tracing::warn!(
        version,
        known = latest_version(),
        "a newer build brings a schema version that breaks with this one: draining, then ending"
    );
    wind_down(&control, &at_work, deadline).await;
    loop {
        let orchestrator = control.borrow().orchestrator;
        let Some(id) = orchestrator else {
            break;
        };
        match leave(&conductor, id).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "cannot give up the lease yet"),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    control.send_modify(|control| control.orchestrator = None);
    retired.send_replace(Some(version));
    // If this returned, it would be taken for a fault.
    std::future::pending().await
}
