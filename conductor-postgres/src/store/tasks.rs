//! Tasks: their declarations, and whether they are served.

use sqlx::types::JsonValue;

use crate::error::Error;
use crate::{Alone, Database, RetryBudget};

/// Declares tasks, given as JSON, with the options that they have there. Returns `(task id, queue id, name)` of each.
pub async fn declare(
    database: &Database,
    declaration: &str,
) -> Result<Vec<(i32, i32, String)>, sqlx::Error> {
    let declare =
        sqlx::query_as("select id, queue_id, name from conductor.declare_tasks($1::jsonb, true)");
    declare.bind(declaration).all(database).await
}

/// Declares those of these tasks that the database does not know, and leaves the others as they are.
pub async fn declare_missing(
    database: &Database,
    budget: RetryBudget,
    declaration: &JsonValue,
) -> Result<(), Error> {
    let declare = || sqlx::query("select conductor.declare_missing($1)").bind(declaration);
    budget.retry(database, declare).await.map(drop)
}

/// Returns the names of all declared tasks, in order.
pub async fn names(database: &Database) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select name from conductor.tasks order by name")
        .all(database)
        .await
}

/// Returns the JSON Schema of a task's payload, or `None` if the task is unknown.
pub async fn payload_schema(
    database: &Database,
    task: &str,
) -> Result<Option<JsonValue>, sqlx::Error> {
    sqlx::query_scalar("select payload_schema from conductor.tasks where name = $1")
        .bind(task)
        .optional(database)
        .await
}

/// Returns whether a living process serves a task. Leases use real time, even if a test moves the virtual clock.
pub async fn is_served(database: &Database, task: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (
                 select from conductor.orchestrators o
                   join conductor.tasks t on t.id = any (o.task_ids)
                  where t.name = $1 and o.lease_until > clock_timestamp())",
    )
    .bind(task)
    .one(database)
    .await
}
