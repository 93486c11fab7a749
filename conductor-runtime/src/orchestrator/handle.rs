use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::store::leases::Identity;
use conductor_postgres::store::processes;
use tokio::sync::watch;

use super::core::{End, ended, over};
use super::retirement::{self, Retirement};
use super::side::Side;
use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::task::States;

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
    /// Whether this process has ended its work for a breaking migration.
    pub(super) retirement: watch::Receiver<Retirement>,
    pub(super) identity: Identity,
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
        retirement::done(self.retirement.clone()).await
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
            let work = self.has_work().await?;
            if !work && *busy.borrow() == 0 {
                return Ok(());
            }
            // A worker is about to find the work, or another process has it.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    async fn has_work(&self) -> Result<bool> {
        let Identity {
            queue_ids,
            task_ids,
            schedule_ids,
            ..
        } = &self.identity;
        let database = self.conductor.database();
        Ok(processes::has_work(database, queue_ids, task_ids, schedule_ids).await?)
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
