//! Executions: their creation, their end, and what changes them from outside.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::JsonValue;
use uuid::Uuid;

use super::columns::columns;
use crate::error::Error;
use crate::{Alone, Database, RetryBudget};

/// Executions to be created: a column for each option, with an element for each execution.
#[derive(Debug)]
pub struct NewExecutions<'a> {
    /// Their ids, made by the caller, so that a retry creates nothing twice.
    pub ids: &'a [Uuid],
    /// The names of their tasks.
    pub tasks: Vec<&'a str>,
    /// Their payloads as JSON.
    pub payloads: Vec<&'a str>,
    /// The earliest starts.
    pub run_at: Vec<Option<DateTime<Utc>>>,
    /// How long they wait first.
    pub delay_ms: Vec<Option<i64>>,
    /// What is used instead of the tasks' priorities.
    pub priorities: Vec<Option<i32>>,
    /// `None` if no execution can match an existing one.
    pub keys: Option<KeyOptions<'a>>,
}

/// The options by which a call may match an existing execution.
#[derive(Debug)]
pub struct KeyOptions<'a> {
    /// The dedupe keys.
    pub keys: Vec<Option<&'a str>>,
    /// The lengths of the throttles' slots.
    pub throttle_ms: Vec<Option<i64>>,
    /// How long the calls must be quiet.
    pub debounce_ms: Vec<Option<i64>>,
    /// The bounds of the debounces.
    pub max_wait_ms: Vec<Option<i64>>,
}

columns! {
    /// What came of calls, in their order. Both are `None` if each has created its execution.
    pub struct CameOf {
        /// The executions that the calls return.
        pub ids: Option<Vec<Uuid>>,
        /// What each call did: `created`, `replaced`, `existing` or `throttled`.
        pub came_of: Option<Vec<String>>,
    }

    /// The state of an execution for a caller that waits for its end.
    pub struct Watched {
        /// Its state.
        pub state: String,
        /// Its task's name.
        pub task: String,
        /// The output as JSON, if it has completed.
        pub output: Option<String>,
        /// The last failure's text, or the reason of a cancel.
        pub error: Option<String>,
    }
}

/// Creates executions. `again` is true if an earlier try may have committed.
///
/// Raises `UNKNOWN_TASK`, `INVALID_ARGUMENT`; with keys also `LOCK_NOT_AVAILABLE` if another transaction holds one, and
/// `SERIALIZATION_FAILURE`.
pub async fn invoke_many(
    connection: &mut PgConnection,
    new: NewExecutions<'_>,
    in_transaction: bool,
    again: bool,
) -> Result<CameOf, sqlx::Error> {
    let (keys, throttle_ms, debounce_ms, max_wait_ms) = match new.keys {
        Some(options) => (
            Some(options.keys),
            Some(options.throttle_ms),
            Some(options.debounce_ms),
            Some(options.max_wait_ms),
        ),
        None => (None, None, None, None),
    };
    sqlx::query_as(
        "select ids, came_of
           from conductor.invoke_many(
               p_ids => $1, p_tasks => $2, p_payloads => $3, p_run_at => $4, p_delay_ms => $5,
               p_priorities => $6, p_in_transaction => $7, p_again => $8, p_keys => $9,
               p_throttle_ms => $10, p_debounce_ms => $11, p_max_wait_ms => $12)",
    )
    .bind(new.ids)
    .bind(new.tasks)
    .bind(new.payloads)
    .bind(new.run_at)
    .bind(new.delay_ms)
    .bind(new.priorities)
    .bind(in_transaction)
    .bind(again)
    .bind(keys)
    .bind(throttle_ms)
    .bind(debounce_ms)
    .bind(max_wait_ms)
    .fetch_one(connection)
    .await
}

/// Cancels an execution and its children. Returns false if it is unknown or has ended.
///
/// Deadlocks are retried, too: parents are locked before their children, but recovery locks in another order.
pub async fn cancel(
    database: &Database,
    budget: RetryBudget,
    id: Uuid,
    reason: Option<&str>,
) -> Result<bool, Error> {
    let cancel = || {
        sqlx::query_scalar("select conductor.cancel($1, $2)")
            .bind(id)
            .bind(reason)
    };
    let cancelled = budget.retry(database, cancel).await?;
    Ok(cancelled.unwrap_or_default())
}

/// Runs an execution again, and returns the one that runs; `None` if there is nothing to repeat.
pub async fn retry(database: &Database, id: Uuid) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select conductor.retry($1)")
        .bind(id)
        .one(database)
        .await
}

/// Returns the state of an execution, whose end will be notified; `None` if it is unknown.
pub async fn watch(
    database: &Database,
    budget: &RetryBudget,
    id: Uuid,
) -> Result<Option<Watched>, sqlx::Error> {
    let watch = sqlx::query_as("select state, task, output, error from conductor.watch($1)");
    budget.ask(database, watch.bind(id)).await
}

/// Returns why an execution does not run, as JSON.
pub async fn why_not_running(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<JsonValue, sqlx::Error> {
    sqlx::query_scalar("select conductor.why_not_running($1)")
        .bind(id)
        .fetch_one(connection)
        .await
}

/// Returns the ids and tasks of those of these executions that exist, ordered by id.
pub async fn tasks_of(
    database: &Database,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    sqlx::query_as(
        "select e.id, e.task from conductor.executions e where e.id = any ($1) order by e.id",
    )
    .bind(ids)
    .all(database)
    .await
}
