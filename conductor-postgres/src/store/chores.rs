//! Repairs that any process may run, and whose turn it is.

use std::time::Duration;

use uuid::Uuid;

use crate::{Alone, Database, MAX_CRASHES};

/// Takes a chore of the whole cluster if it is due, and returns the position that it had reached
/// before. Returns `None` if it is not due.
pub async fn take(
    database: &Database,
    chore: &str,
    every: Duration,
) -> Result<Option<Option<Uuid>>, sqlx::Error> {
    sqlx::query_scalar(
        "select position_before from conductor.take_chore($1, $2 * interval '1 second')",
    )
    .bind(chore)
    .bind(every.as_secs_f64())
    .optional(database)
    .await
}

/// Stores the position that a chore has reached, and whether it is due again at once.
pub async fn leave(
    database: &Database,
    chore: &str,
    position: Option<Uuid>,
    again: bool,
) -> Result<(), sqlx::Error> {
    let leave = sqlx::query("select conductor.leave_chore($1, $2, $3)")
        .bind(chore)
        .bind(position)
        .bind(again);
    database.run(leave).await.map(drop)
}

/// Recovers the executions of processes whose lease has expired. Returns how many.
pub async fn recover(database: &Database) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select conductor.recover($1)")
        .bind(MAX_CRASHES)
        .one(database)
        .await
}

/// Recovers executions that run under an orchestrator that no longer exists. Returns how many.
pub async fn recover_orphans(database: &Database) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select conductor.recover_orphans($1)")
        .bind(MAX_CRASHES)
        .one(database)
        .await
}

/// Does at most `most` of the actions that were deferred because another transaction had locked their
/// executions, if these are free now.
pub async fn do_deferred(database: &Database, most: i32) -> Result<(), sqlx::Error> {
    let look = sqlx::query("select conductor.do_deferred($1, $2)")
        .bind(most)
        .bind(MAX_CRASHES);
    database.run(look).await.map(drop)
}

/// Moves a portion of the executions that are still in a queue that their task has left. Returns
/// whether more may be left.
pub async fn follow_moves(database: &Database) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select more from conductor.follow_moves()")
        .one(database)
        .await
}

/// Corrects times that lie further ahead than possible, because the server's clock was ahead for a
/// while. Returns a text for each.
pub async fn heal_times(database: &Database) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select h from conductor.heal_times() h")
        .all(database)
        .await
}
