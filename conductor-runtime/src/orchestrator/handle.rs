use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::lease::{self, Identity, LeaseTimes};
use crate::client::Conductor;
use crate::error::Result;
use crate::worker::{Control, Phase, Signals};

/// An orchestrator at work. Dropping it stops everything at once, as a crash would; what it held
/// is recovered after its lease. [`stop`](Self::stop) is the orderly end.
#[derive(Debug)]
pub struct Handle {
    conductor: Conductor,
    control: watch::Sender<Control>,
    busy: watch::Receiver<usize>,
    pipelines: JoinSet<()>,
    keeper: AbortHandle,
    identity: Identity,
    shutdown_deadline: Duration,
}

impl Handle {
    pub(super) fn new(
        conductor: Conductor,
        control: watch::Sender<Control>,
        signals: Signals,
        pipelines: JoinSet<()>,
        identity: Identity,
        times: LeaseTimes,
        shutdown_deadline: Duration,
    ) -> Self {
        let busy = signals.busy.subscribe();
        let keeper = tokio::spawn(lease::keep(
            conductor.clone(),
            identity.clone(),
            times,
            control.clone(),
            signals,
        ))
        .abort_handle();
        Self {
            conductor,
            control,
            busy,
            pipelines,
            keeper,
            identity,
            shutdown_deadline,
        }
    }

    /// Waits until nothing is due and nothing runs, of the tasks that have a worker here.
    pub async fn drained(&self) -> Result<()> {
        let mut busy = self.busy.clone();
        loop {
            // The sender lives in the keeper, which lives as long as this handle.
            let _ = busy.wait_for(|count| *count == 0).await;
            let work: bool = sqlx::query_scalar("select conductor.has_work($1, $2)")
                .bind(&self.identity.queue_ids)
                .bind(&self.identity.task_ids)
                .fetch_one(self.conductor.pool())
                .await?;
            if !work && *busy.borrow() == 0 {
                return Ok(());
            }
            // The workers are about to find it, or another process has it.
            tokio::time::sleep(Duration::from_millis(2)).await;
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
        self.keeper.abort();
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

impl Drop for Handle {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}
