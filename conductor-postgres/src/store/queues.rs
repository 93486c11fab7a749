//! Queues.

use super::columns::columns;
use crate::{Alone, Database};

columns! {
    /// The state and the counts of one queue.
    pub struct Counted {
        /// Its name.
        pub name: String,
        /// Whether it is paused.
        pub paused: bool,
        /// How many executions are due and wait for a worker.
        pub waiting: i64,
        /// How many a worker has claimed.
        pub running: i64,
        /// How many wait for a limit of their task.
        pub parked: i64,
        /// How many living processes serve it.
        pub workers: i64,
    }
}

/// Returns all queues, ordered by name; each count stops at `most`.
pub async fn list(database: &Database, most: i32) -> Result<Vec<Counted>, sqlx::Error> {
    sqlx::query_as(
        "select name, paused, waiting, running, parked, workers from conductor.queue_counts($1)",
    )
    .bind(most)
    .all(database)
    .await
}

/// Pauses a queue. Returns false if there is none of this name.
pub async fn pause(database: &Database, queue: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.pause_queue($1)")
        .bind(queue)
        .one(database)
        .await
}

/// Resumes a queue. Returns false if there is none of this name.
pub async fn resume(database: &Database, queue: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.resume_queue($1)")
        .bind(queue)
        .one(database)
        .await
}
