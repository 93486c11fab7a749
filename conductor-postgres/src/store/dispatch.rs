//! Events on their way to the tasks that subscribe to them.

use sqlx::PgConnection;
use sqlx::types::JsonValue;

use crate::Database;

/// Declares the events of a program and which of them start its tasks, and removes subscriptions of
/// its crates (`owners`) that it no longer has.
pub async fn declare_subscriptions(
    database: &Database,
    owners: &[String],
    task_ids: &[i32],
    subscriptions: &JsonValue,
    events: &JsonValue,
) -> Result<(), sqlx::Error> {
    let declare = sqlx::query("select conductor.declare_subscriptions($1, $2, $3, $4)")
        .bind(owners)
        .bind(task_ids)
        .bind(subscriptions)
        .bind(events);
    database.run(declare).await.map(drop)
}

/// Writes events that were emitted in transactions to the log, at most `most`, which starts tasks and
/// wakes waits. Returns whether nothing is left, or `None` if another transaction holds the locks of
/// the names.
pub async fn dispatch(
    connection: &mut PgConnection,
    most: i32,
) -> Result<Option<bool>, sqlx::Error> {
    sqlx::query_scalar("select conductor.dispatch($1)")
        .bind(most)
        .fetch_one(connection)
        .await
}
