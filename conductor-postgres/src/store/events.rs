//! Events: emitted, logged, declared, and what came of them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::JsonValue;
use uuid::Uuid;

use super::columns::columns;
use crate::{Alone, Database};

/// Events to be emitted: a column for each property, with an element for each event.
#[derive(Debug)]
pub struct NewEvents<'a> {
    /// Their ids, made by the caller, so that a retry emits nothing twice.
    pub ids: Vec<Uuid>,
    /// Their names.
    pub names: Vec<&'a str>,
    /// Their payloads as JSON.
    pub payloads: Vec<&'a str>,
}

columns! {
    /// What a watched event has done so far.
    pub struct Effect {
        /// Whether that is all.
        pub done: bool,
        /// The executions that it started.
        pub started: Vec<Uuid>,
        /// The executions that it woke.
        pub woken: Vec<Uuid>,
    }
}

/// An event of the log.
#[derive(Debug)]
pub struct Logged {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The payload as JSON.
    pub payload: String,
    /// When it was emitted.
    pub emitted_at: DateTime<Utc>,
}

/// Emits events. `in_transaction` is true if the caller's transaction may last, so that an orchestrator writes them to
/// the log after the commit.
///
/// Raises `INVALID_ARGUMENT`, and `LOCK_NOT_AVAILABLE` if a lock is not free within a second.
pub async fn emit_many(
    connection: &mut PgConnection,
    new: NewEvents<'_>,
    in_transaction: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.emit_many($1, $2, $3, $4)")
        .bind(new.ids)
        .bind(new.names)
        .bind(new.payloads)
        .bind(in_transaction)
        .execute(connection)
        .await
        .map(drop)
}

/// Returns the latest events, newest first, of one name or of all names.
pub async fn latest(
    database: &Database,
    name: Option<&str>,
    limit: i64,
) -> Result<Vec<Logged>, sqlx::Error> {
    let rows: Vec<(Uuid, String, String, DateTime<Utc>)> = sqlx::query_as(
        "select e.id, e.name, e.payload::text, conductor.shown(e.emitted_at)
               from conductor.events e
              where $1::text is null or e.name = $1
              order by e.emitted_at desc, e.seq desc
              limit $2",
    )
    .bind(name)
    .bind(limit)
    .all(database)
    .await?;
    let logged = rows
        .into_iter()
        .map(|(id, name, payload, emitted_at)| Logged {
            id,
            name,
            payload,
            emitted_at,
        });
    Ok(logged.collect())
}

/// Returns the names and the JSON Schemas of all declared events, ordered by name.
pub async fn schemas(database: &Database) -> Result<Vec<(String, JsonValue)>, sqlx::Error> {
    sqlx::query_as("select name, schema from conductor.event_types order by name")
        .all(database)
        .await
}

/// Makes the effect of an event, which is not emitted yet, be noted.
pub async fn watch(database: &Database, id: Uuid) -> Result<(), sqlx::Error> {
    let watch = sqlx::query("select conductor.watch_event($1)").bind(id);
    database.run(watch).await.map(drop)
}

/// Returns what a watched event has done so far.
pub async fn effect(database: &Database, id: Uuid) -> Result<Effect, sqlx::Error> {
    sqlx::query_as("select done, started, woken from conductor.event_effect($1)")
        .bind(id)
        .one(database)
        .await
}
