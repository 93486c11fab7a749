use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::lease::Identity;
use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::worker::{Control, Phase};

/// An orchestrator at work. Dropping it stops everything at once, as a crash would; what it held
/// is recovered after its lease. [`stop`](Self::stop) is the orderly end.
#[derive(Debug)]
pub struct Handle {
    pub(super) conductor: Conductor,
    pub(super) control: watch::Sender<Control>,
    pub(super) busy: watch::Receiver<usize>,
    pub(super) pipelines: JoinSet<()>,
    /// The heartbeat, the chores, the scheduler and the dispatcher of events.
    pub(super) keepers: JoinSet<()>,
    pub(super) identity: Identity,
    pub(super) static_ids: Vec<i64>,
    pub(super) shutdown_deadline: Duration,
}

impl Handle {
    /// Ends when a part of the orchestrator has ended by itself, which only a fault of ours does.
    pub(super) async fn broken(&mut self) -> Error {
        let ended = tokio::select! {
            Some(ended) = self.pipelines.join_next() => ended,
            Some(ended) = self.keepers.join_next() => ended,
            else => Ok(()),
        };
        let reason = match ended {
            Err(error) => error.to_string(),
            Ok(()) => "a worker has ended; its pool was closed".to_owned(),
        };
        Error::Broken(reason)
    }

    /// Waits until nothing is due and nothing runs, of the tasks that have a worker here, no
    /// schedule has a tick to make, and no event is to be dispatched.
    pub async fn drained(&self) -> Result<()> {
        let mut busy = self.busy.clone();
        let mut pause = Duration::from_millis(2);
        loop {
            // The sender lives in the keeper, which lives as long as this handle.
            let _ = busy.wait_for(|count| *count == 0).await;
            let work: bool = sqlx::query_scalar("select conductor.has_work($1, $2, $3)")
                .bind(&self.identity.queue_ids)
                .bind(&self.identity.task_ids)
                .bind(&self.static_ids)
                .fetch_one(self.conductor.pool())
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
    pub async fn stop(mut self) -> Result<()> {
        self.control
            .send_modify(|control| control.phase = Phase::Stopping);
        let stopped = async { while self.pipelines.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shutdown_deadline, stopped)
            .await
            .is_err()
        {
            tracing::warn!("the shutdown's deadline is over; running handlers are released");
            self.control
                .send_modify(|control| control.phase = Phase::Halting);
            while self.pipelines.join_next().await.is_some() {}
        }
        self.keepers.abort_all();
        let orchestrator = self.control.borrow().orchestrator;
        if let Some(id) = orchestrator {
            sqlx::query("select conductor.stop_orchestrator($1)")
                .bind(id)
                .execute(self.conductor.pool())
                .await?;
        }
        Ok(())
    }
}
