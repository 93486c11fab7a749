//! Schedules.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns::columns;
use crate::{Alone, Database};

/// A dynamic schedule to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewSchedule<'a> {
    /// The task that it invokes.
    pub task: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The cron expression.
    pub cron: &'a str,
    /// The payload as JSON.
    pub payload: &'a str,
    /// The time zone of the expression.
    pub timezone: &'a str,
    /// How missed ticks are handled.
    pub missed: &'a str,
    /// What a tick does while the previous execution has not ended.
    pub overlap: &'a str,
}

columns! {
    /// A schedule.
    pub struct Stored {
        /// The task that it invokes.
        pub task: String,
        /// Its name.
        pub name: String,
        /// Whether it was created at run time.
        pub dynamic: bool,
        /// The cron expression.
        pub cron: String,
        /// The time zone of the expression.
        pub timezone: String,
        /// How missed ticks are handled.
        pub missed: String,
        /// What a tick does while the previous execution has not ended.
        pub overlap: String,
        /// The payload as JSON; `None` if the code computes it.
        pub payload: Option<String>,
        /// The next tick.
        pub next_at: Option<DateTime<Utc>>,
        /// Whether no worker has computed the next tick yet.
        pub unplanned: bool,
        /// The time after which the next tick is.
        pub planned_from: DateTime<Utc>,
        /// The last tick that created an execution.
        pub last_at: Option<DateTime<Utc>>,
        /// The execution of that tick.
        pub last_execution: Option<Uuid>,
        /// Whether it is paused.
        pub paused: bool,
        /// Why the rule cannot be parsed.
        pub fault: Option<String>,
        /// Whether newer code no longer declares it.
        pub retired: bool,
        /// Whether a living process declares it, or, for a dynamic one, has its task.
        pub served: bool,
    }
}

/// Creates a dynamic schedule, or replaces the one of that name.
///
/// Raises `UNKNOWN_TASK`, `INVALID_ARGUMENT`.
pub async fn store(connection: &mut PgConnection, new: NewSchedule<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select conductor.schedule(
            task => $1, name => $2, cron => $3, payload => $4::json, timezone => $5, missed => $6,
            overlap => $7)",
    )
    .bind(new.task)
    .bind(new.name)
    .bind(new.cron)
    .bind(new.payload)
    .bind(new.timezone)
    .bind(new.missed)
    .bind(new.overlap)
    .execute(connection)
    .await
    .map(drop)
}

/// Removes a dynamic schedule. Returns false if there is none.
pub async fn remove(
    connection: &mut PgConnection,
    task: &str,
    name: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.unschedule($1, $2)")
        .bind(task)
        .bind(name)
        .fetch_one(connection)
        .await
}

/// Returns all schedules, ordered by task and name.
pub async fn list(database: &Database) -> Result<Vec<Stored>, sqlx::Error> {
    sqlx::query_as(
        "select t.name as task, s.name, s.dynamic, s.cron, s.timezone, s.missed, s.overlap,
                    s.payload::text as payload, conductor.shown(nullif(s.next_at, 'infinity')) as next_at,
                    s.next_at is null as unplanned, conductor.shown(s.planned_from) as planned_from,
                    conductor.shown(s.last_at) as last_at, s.last_execution, s.paused,
                    s.fault, s.retired,
                    exists (select from conductor.orchestrators o
                             where case when s.dynamic then t.id = any (o.task_ids)
                                        else s.id = any (o.schedule_ids) end
                               and o.lease_until > clock_timestamp()) as served
               from conductor.schedules s
               join conductor.tasks t on t.id = s.task_id
              order by t.name, s.dynamic, s.name",
    )
    .all(database)
    .await
}

/// Pauses a schedule. Returns false if there is none.
pub async fn pause(database: &Database, task: &str, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.pause_schedule($1, $2)")
        .bind(task)
        .bind(name)
        .one(database)
        .await
}

/// Resumes a schedule. Returns false if there is none.
pub async fn resume(database: &Database, task: &str, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.resume_schedule($1, $2)")
        .bind(task)
        .bind(name)
        .one(database)
        .await
}

/// Returns whether one of the schedules of this name has a stored payload; `None` if there is no schedule.
pub async fn has_payload(
    database: &Database,
    task: &str,
    name: &str,
) -> Result<Option<bool>, sqlx::Error> {
    sqlx::query_scalar(
        "select bool_or(s.payload is not null) from conductor.schedules s
               join conductor.tasks t on t.id = s.task_id
              where t.name = $1 and s.name = $2",
    )
    .bind(task)
    .bind(name)
    .one(database)
    .await
}

/// Invokes what a schedule would invoke at this time, with this payload, if one is given. Returns the execution, or
/// `None` if there is no schedule.
///
/// Raises `INVALID_ARGUMENT` if no payload is stored or given.
pub async fn trigger(
    database: &Database,
    task: &str,
    name: &str,
    payload: Option<&str>,
    at: DateTime<Utc>,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select conductor.trigger_schedule($1, $2, $3::json, $4)")
        .bind(task)
        .bind(name)
        .bind(payload)
        .bind(at)
        .one(database)
        .await
}
