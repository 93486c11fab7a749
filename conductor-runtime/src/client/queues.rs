use super::Conductor;
use crate::db::Alone;
use crate::error::Result;

/// What the database knows of one queue.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
#[non_exhaustive]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// Nothing of it is claimed until it is resumed.
    pub paused: bool,
    /// How many executions are due and wait for a worker; counted up to [`Self::MOST`].
    pub waiting: i64,
    /// How many a worker has; counted up to [`Self::MOST`].
    pub running: i64,
    /// How many wait for a limit of their task; counted up to [`Self::MOST`].
    pub parked: i64,
    /// How many living processes serve it.
    pub workers: i64,
}

impl QueueInfo {
    /// The counts end here: this many are this many or more.
    pub const MOST: i32 = 10_000;
}

impl Conductor {
    /// All queues that a task has been declared for, by name.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.migrate().await?;
        Ok(sqlx::query_as(
            "select name, paused, waiting, running, parked, workers from conductor.queue_counts($1)",
        )
        .bind(QueueInfo::MOST)
        .all(self.database())
        .await?)
    }

    /// Keeps a queue from being worked on, in all processes, until it is
    /// [resumed](Self::resume_queue); false where there is none of this name.
    ///
    /// What runs goes on. What a worker has claimed and not started is given back within a second.
    /// Executions can be invoked, and wait. The pause is kept in the database, and so survives any
    /// restart or deploy.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// conductor.pause_queue("fast").await?;
    /// // The payment provider is back.
    /// conductor.resume_queue("fast").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pause_queue(&self, queue: &str) -> Result<bool> {
        self.steer_queue("select conductor.pause_queue($1)", queue)
            .await
    }

    /// Lets a paused queue be worked on again; false where there is none of this name.
    pub async fn resume_queue(&self, queue: &str) -> Result<bool> {
        self.steer_queue("select conductor.resume_queue($1)", queue)
            .await
    }

    async fn steer_queue(&self, statement: &'static str, queue: &str) -> Result<bool> {
        self.migrate().await?;
        if queue.contains('\0') {
            // Postgres knows no such text, so no queue has this name.
            return Ok(false);
        }
        Ok(sqlx::query_scalar(statement)
            .bind(queue)
            .one(self.database())
            .await?)
    }
}
