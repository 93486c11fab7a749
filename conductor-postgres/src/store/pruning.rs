//! What keeps the tables small.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{Alone, Database};

/// Removes finished executions that are past their retention: at most `most`, those that ended after
/// `after` first. Returns how many were removed, and how far the search has come.
pub async fn prune_finished(
    database: &Database,
    most: i32,
    after: Option<DateTime<Utc>>,
) -> Result<(i32, Option<DateTime<Utc>>), sqlx::Error> {
    sqlx::query_as(
        "select removed, nullif(reached, '-infinity')
               from conductor.prune_finished($1, coalesce($2, '-infinity'))",
    )
    .bind(most)
    .bind(after)
    .one(database)
    .await
}

/// Removes at most `most` other rows that are past their retention. Returns how many.
pub async fn prune(database: &Database, most: i32) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select conductor.prune($1)")
        .bind(most)
        .one(database)
        .await
}

/// Revives lanes whose parked executions were overlooked.
pub async fn revive_lanes(database: &Database) -> Result<(), sqlx::Error> {
    let revive = sqlx::query("select conductor.revive_lanes()");
    database.run(revive).await.map(drop)
}

/// Revives turns whose parked executions were overlooked.
pub async fn revive_turns(database: &Database) -> Result<(), sqlx::Error> {
    let revive = sqlx::query("select conductor.revive_turns()");
    database.run(revive).await.map(drop)
}

/// Removes at most `most` lanes and turns of keys that are no longer used. Returns how many.
pub async fn prune_lanes(database: &Database, most: i32) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select conductor.prune_lanes($1)")
        .bind(most)
        .one(database)
        .await
}

/// Removes row watches that were not used for a week.
pub async fn prune_row_watches(database: &Database) -> Result<(), sqlx::Error> {
    let prune = sqlx::query("select conductor.prune_row_watches()");
    database.run(prune).await.map(drop)
}

/// Removes records whose execution no longer exists, in a portion of `most` that begins after
/// `position`. Returns where the next portion begins, or `None` at the end.
pub async fn sweep(
    database: &Database,
    position: Option<Uuid>,
    most: i32,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select conductor.sweep($1, $2)")
        .bind(position)
        .bind(most)
        .one(database)
        .await
}
