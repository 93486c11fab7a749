use std::future::{Future, IntoFuture};
use std::pin::Pin;

use conductor_postgres::store::queues;
use serde::Serialize;

use super::Queues;
use crate::error::Result;

/// The state and the counts of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// Whether it is paused: nothing in it is claimed until it is resumed.
    pub paused: bool,
    /// How many executions are due and wait for a worker, counted up to [`Self::MOST`].
    pub waiting: i64,
    /// How many a worker has claimed, counted up to [`Self::MOST`].
    pub running: i64,
    /// How many wait for a limit of their task, counted up to [`Self::MOST`].
    pub parked: i64,
    /// How many living processes serve it.
    pub workers: i64,
}

impl QueueInfo {
    /// The counts stop here: this value means this many or more.
    pub const MOST: i32 = 10_000;
}

impl Queues<'_> {
    /// Returns all queues that a task was ever declared for, ordered by name.
    pub async fn list(self) -> Result<Vec<QueueInfo>> {
        self.conductor.migrate().await?;
        let counted = queues::list(self.conductor.database(), QueueInfo::MOST).await?;
        let queues = counted.into_iter().map(|queue| QueueInfo {
            name: queue.name,
            paused: queue.paused,
            waiting: queue.waiting,
            running: queue.running,
            parked: queue.parked,
            workers: queue.workers,
        });
        Ok(queues.collect())
    }

    /// Pauses a queue in all processes until it is [resumed](Self::resume).
    ///
    /// Returns false if there is no queue of this name.
    ///
    /// Running handlers continue. Executions that are claimed but not started are returned within a
    /// second. New executions can be invoked, and wait. The pause is stored in the database and
    /// survives restarts and deploys.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// conductor.queues().pause("fast").await?;
    /// // The payment provider is back.
    /// conductor.queues().resume("fast").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pause(self, queue: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        if !can_exist(queue) {
            return Ok(false);
        }
        Ok(queues::pause(self.conductor.database(), queue).await?)
    }

    /// Resumes a paused queue. Returns false if there is no queue of this name.
    pub async fn resume(self, queue: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        if !can_exist(queue) {
            return Ok(false);
        }
        Ok(queues::resume(self.conductor.database(), queue).await?)
    }
}

impl<'c> IntoFuture for Queues<'c> {
    type Output = Result<Vec<QueueInfo>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.list())
    }
}

/// Returns whether a queue may have this name: Postgres cannot store U+0000.
fn can_exist(queue: &str) -> bool {
    !queue.contains('\0')
}
