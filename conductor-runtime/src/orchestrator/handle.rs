use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::core::{End, ended, over};
use super::lease::Identity;
use super::side::Side;
use crate::client::Conductor;
use crate::db::{Alone, latest_version};
use crate::error::{Error, Result};
use crate::task::States;
use crate::worker::{Control, Phase};

/// After the database could not be told that this process ends.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// An orchestrator at work. Dropping it tells its threads to end, which they do as soon as they come to it, as in a
/// crash: what it held is recovered after its lease. [`stop`](Self::stop) is the orderly end.
#[derive(Debug)]
pub struct Handle {
    pub(super) conductor: Conductor,
    /// True when the work is to end.
    pub(super) stop: watch::Sender<bool>,
    /// How the work has ended.
    pub(super) end: watch::Receiver<End>,
    pub(super) busy: watch::Receiver<usize>,
    /// The breaking migration for which this process has ended its work.
    pub(super) retired: watch::Receiver<Option<i32>>,
    pub(super) identity: Identity,
    pub(super) static_ids: Vec<i64>,
    /// Of the work, and of the heartbeat. Dropped, they end.
    pub(super) threads: [Side; 2],
    /// The application's values, so that they are dropped on a thread of its own.
    pub(super) states: Arc<States>,
}

impl Handle {
    /// Waits until this process has ended its work for a newer build, which is about to apply a
    /// migration that this one does not know and that is marked as breaking; gives its number.
    ///
    /// The orchestrator then drains by itself, as by [`stop`](Self::stop), whether anybody waits here
    /// or not. [`Orchestrator::run`](super::Orchestrator::run) returns; a program that calls
    /// [`start`](super::Orchestrator::start) ends itself, and its supervisor finds the newer build.
    pub async fn retired(&self) -> i32 {
        retirement(self.retired.clone()).await
    }

    /// Waits until nothing is due and nothing runs, of the tasks that have a worker here, no
    /// schedule has a tick to make, and no event is to be dispatched.
    ///
    /// # Errors
    /// [`Error::Broken`] as [`stop`](Self::stop), as nobody may be left to do it; what a statement may return.
    pub async fn drained(&self) -> Result<()> {
        let mut busy = self.busy.clone();
        let mut pause = Duration::from_millis(2);
        loop {
            let idle = async {
                // The sender ends with the work, behind which the question below decides.
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
            // The workers are about to find it, or another process has it.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Shuts down: claims no more, lets handlers run until the deadline, writes what finished and
    /// releases the rest. While the database is away it waits for it, as outcomes are not dropped.
    ///
    /// Where the application has closed its pool, handlers are not waited for, and outcomes for no longer than
    /// the shutdown's deadline.
    ///
    /// # Errors
    /// [`Error::Broken`] where a part of the orchestrator had ended by itself, or the application had closed
    /// its pool. What was left has been ended in order all the same.
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

/// Ends when the channel tells of the breaking migration for which this process has ended its work.
pub(super) async fn retirement(mut retired: watch::Receiver<Option<i32>>) -> i32 {
    let version = retired.wait_for(Option::is_some).await.ok();
    match version.and_then(|version| *version) {
        Some(version) => version,
        // The keeper ends with the handle only.
        None => std::future::pending().await,
    }
}

/// Claims no more, and ends the pipelines: at once where nothing runs, at the deadline at last.
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

/// Ends the work of this process once the heartbeat has found that a newer build is about to apply a
/// breaking migration, and says so when it has ended.
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
    // Its end would be taken for a fault.
    std::future::pending().await
}
