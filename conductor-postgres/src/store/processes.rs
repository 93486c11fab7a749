//! What the database knows of the processes of the cluster and of their work.

use uuid::Uuid;

use crate::{Alone, Database};

/// Returns the queues that a living process serves.
pub async fn served_queues(database: &Database) -> Result<Vec<i32>, sqlx::Error> {
    sqlx::query_scalar(
        "select distinct unnest(queue_ids) from conductor.orchestrators
          where lease_until > clock_timestamp()",
    )
    .all(database)
    .await
}

/// Returns whether something is due, running or undispatched for these queues, tasks and schedules.
pub async fn has_work(
    database: &Database,
    queue_ids: &[i32],
    task_ids: &[i32],
    schedule_ids: &[i64],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.has_work($1, $2, $3)")
        .bind(queue_ids)
        .bind(task_ids)
        .bind(schedule_ids)
        .one(database)
        .await
}

/// Returns the executions that run under this orchestrator and were cancelled.
pub async fn cancelled_under(
    database: &Database,
    orchestrator: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "select id from conductor.live_executions
          where cancelled and state = 'running' and orchestrator_id = $1",
    )
    .bind(orchestrator)
    .all(database)
    .await
}
