//! The database's clock, which decides what is due.

use chrono::{DateTime, Utc};

use crate::{Alone, Database};

/// Returns the database's time.
pub async fn now(database: &Database) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("select conductor.now()")
        .one(database)
        .await
}

/// Returns the database's time, and by how many milliseconds a test has moved it.
pub async fn now_and_shift(database: &Database) -> Result<(DateTime<Utc>, i64), sqlx::Error> {
    sqlx::query_as(
        "select conductor.now(), floor(extract(epoch from shift) * 1000)::bigint
               from conductor.clock where only_row",
    )
    .one(database)
    .await
}

/// Moves the virtual clock forward, and notifies workers. Runs on the application's pool.
#[cfg(feature = "testing")]
pub async fn advance(pool: &sqlx::PgPool, micros: f64) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.advance_clock($1 * interval '1 microsecond')")
        .bind(micros)
        .execute(pool)
        .await
        .map(drop)
}
