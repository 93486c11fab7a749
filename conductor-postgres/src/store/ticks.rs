//! Schedules that are due, and the executions of their ticks.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::JsonValue;
use uuid::Uuid;

use super::columns::columns;
use crate::{Alone, Database};

columns! {
    /// A schedule that is due; a row without an id has the time.
    pub struct DueRow {
        /// The schedule; `None` in the row that has the time.
        pub id: Option<i64>,
        /// Changes with every tick, so that each is written once.
        pub version: Option<i64>,
        /// The task that it invokes.
        pub task: Option<String>,
        /// Its name within the task.
        pub name: Option<String>,
        /// Its rule.
        pub cron: Option<String>,
        /// The time zone of the rule.
        pub timezone: Option<String>,
        /// The rule before the last change, whose ticks may still be owed.
        pub former_cron: Option<String>,
        /// The time zone of that rule.
        pub former_timezone: Option<String>,
        /// What happens to missed ticks.
        pub missed: Option<String>,
        /// The payload of a dynamic schedule; that of a declared one is computed by its code.
        pub payload: Option<String>,
        /// The tick that is due.
        pub next_at: Option<DateTime<Utc>>,
        /// The time from which the rule counts.
        pub planned_from: Option<DateTime<Utc>>,
        /// The time.
        pub now: DateTime<Utc>,
        /// How far tests have moved the clock.
        pub shift_ms: Option<i64>,
        /// How long it takes until the next schedule is due.
        pub next_due_ms: Option<i64>,
        /// Whether ticks wait for one another.
        pub queued: Option<bool>,
    }
}

/// What to write for schedules that were due, as columns. The first four have an element for each
/// schedule, the others one for each execution.
#[derive(Debug, Default)]
pub struct TickColumns {
    /// The schedules.
    pub ids: Vec<i64>,
    /// The versions for which this was computed.
    pub versions: Vec<i64>,
    /// Their next ticks, if there are any.
    pub next: Vec<Option<DateTime<Utc>>>,
    /// Why a schedule cannot be read.
    pub faults: Vec<Option<String>>,
    /// The schedule of each execution.
    pub schedules: Vec<i64>,
    /// The ids of the executions.
    pub executions: Vec<Uuid>,
    /// The time of each tick.
    pub at: Vec<DateTime<Utc>>,
    /// The payloads; `None` if the code could not compute one.
    pub payloads: Vec<Option<String>>,
}

columns! {
    /// A schedule with its next tick.
    pub struct Planned {
        /// The schedule.
        pub id: i64,
        /// Changes with every tick.
        pub version: i64,
        /// The task that it invokes.
        pub task: String,
        /// Its name within the task.
        pub name: String,
        /// Its rule.
        pub cron: String,
        /// The time zone of the rule.
        pub timezone: String,
        /// Its next tick.
        pub next_at: DateTime<Utc>,
        /// The time.
        pub now: DateTime<Utc>,
    }
}

/// Declares the schedules of a program, and removes those of its crates (`owners`) that it no longer
/// has. Returns the id, the task and the name of each.
pub async fn declare_schedules(
    database: &Database,
    owners: &[String],
    schedules: &JsonValue,
) -> Result<Vec<(i64, String, String)>, sqlx::Error> {
    sqlx::query_as("select id, task, name from conductor.declare_schedules($1, $2)")
        .bind(owners)
        .bind(schedules)
        .all(database)
        .await
}

/// Returns at most `most` schedules that are due, and a row that has the time. Of the schedules that
/// code declares, only `declared` are returned: other programs compute the payloads of the others.
pub async fn due(
    connection: &mut PgConnection,
    declared: &[i64],
    most: i32,
) -> Result<Vec<DueRow>, sqlx::Error> {
    sqlx::query_as(
        "select id, version, task, name, cron, timezone, former_cron, former_timezone, missed, payload,
                    next_at, planned_from, now, shift_ms, next_due_ms, queued
               from conductor.due_schedules($1, $2)",
    )
    .bind(declared)
    .bind(most)
    .fetch_all(connection)
    .await
}

/// Creates the executions of ticks and sets the next ticks. Returns the number of schedules that no
/// other process had moved on meanwhile; the others are left as they are.
pub async fn write(connection: &mut PgConnection, ticks: &TickColumns) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(
        "select conductor.tick(
                p_ids => $1, p_versions => $2, p_next => $3, p_faults => $4, p_schedules => $5,
                p_executions => $6, p_at => $7, p_payloads => $8)",
    )
    .bind(&ticks.ids)
    .bind(&ticks.versions)
    .bind(&ticks.next)
    .bind(&ticks.faults)
    .bind(&ticks.schedules)
    .bind(&ticks.executions)
    .bind(&ticks.at)
    .bind(&ticks.payloads)
    .fetch_one(connection)
    .await
}

/// Makes ticks due that waited for the end of an earlier one. Returns how many.
pub async fn release(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select conductor.release_ticks()")
        .fetch_one(connection)
        .await
}

/// Returns a portion of `most` schedules whose next tick is before `before`, the latest first.
pub async fn far(
    connection: &mut PgConnection,
    before: Option<DateTime<Utc>>,
    most: i32,
) -> Result<Vec<Planned>, sqlx::Error> {
    sqlx::query_as(
        "select id, version, task, name, cron, timezone, next_at, now from conductor.far_schedules($1, $2)",
    )
    .bind(before)
    .bind(most)
    .fetch_all(connection)
    .await
}

/// Forgets the next ticks of these schedules, so that they are planned anew, unless their versions have
/// changed.
pub async fn replan(
    connection: &mut PgConnection,
    ids: &[i64],
    versions: &[i64],
) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.replan($1, $2)")
        .bind(ids)
        .bind(versions)
        .execute(connection)
        .await
        .map(drop)
}
