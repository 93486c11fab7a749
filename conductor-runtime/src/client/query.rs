use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::store::listing::{self, Found, Listed, State};
use conductor_postgres::store::{clock, tasks};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Inspect, Status};
use crate::error::{Error, Result};
use crate::task::Trigger;

/// The details of one execution, as stored in the database.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ExecutionInfo {
    /// Its id.
    pub id: Uuid,
    /// The task's name.
    pub task: String,
    /// The queue's name.
    pub queue: String,
    /// Its state.
    pub state: Status,
    /// Executions of higher priority are claimed first.
    pub priority: i32,
    /// When it was invoked.
    pub created_at: DateTime<Utc>,
    /// When it is due; `None` once it has ended.
    pub run_at: Option<DateTime<Utc>>,
    /// When a worker last claimed it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The number of failed attempts.
    pub failures: i32,
    /// The number of attempts that ended because their process crashed.
    pub crashes: i32,
    /// The fencing token of its last claim.
    pub claim: i32,
    /// The execution that this one repeats; after several repeats, the original.
    pub retry_of: Option<Uuid>,
    /// The dedupe key that it was invoked with.
    pub dedupe_key: Option<String>,
    /// What started it.
    pub trigger: Trigger,
    /// Whether it waits for its task's window: `run_at` is then the opening.
    pub postponed: bool,
    /// Why it waits for another build that can read it; `None` if it does not.
    pub unreadable: Option<String>,
    /// The event that it waits for; of several, the first in the order of keys.
    pub event: Option<String>,
    /// The payload as JSON.
    pub payload: Box<RawValue>,
    /// The output as JSON; only if it has completed.
    pub output: Option<Box<RawValue>>,
    /// The last failure's text, or the reason of a cancel.
    pub error: Option<String>,
    /// The code and details of its [`Failure`](crate::failure::Failure) as JSON, if it failed with one.
    pub failure: Option<Box<RawValue>>,
    /// Why it seems stuck; only if it is running.
    pub stuck: Option<Stuck>,
}

/// Why a running execution seems to make no progress.
///
/// In JSON, the time is in milliseconds: `{"kind":"overtime","by_ms":1500}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "StuckJson")]
#[non_exhaustive]
pub enum Stuck {
    /// Its process has ended or could not renew its lease. A living worker will take it back.
    ProcessGone,
    /// It exceeds its task's timeout by this long, so its handler has probably not reached an `.await`.
    Overtime(Duration),
}

/// The JSON of [`Stuck`].
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StuckJson {
    ProcessGone,
    Overtime { by_ms: u64 },
}

impl From<Stuck> for StuckJson {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::ProcessGone => Self::ProcessGone,
            Stuck::Overtime(by) => Self::Overtime {
                by_ms: u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }
}

/// A failed attempt.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The number of the attempt, from 1.
    pub attempt: i32,
    /// When it failed.
    pub failed_at: DateTime<Utc>,
    /// The text of the error.
    pub error: String,
}

/// Which executions to list. By default the newest 50 of all.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only of this task.
    pub task: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only in this state.
    pub state: Option<Status>,
    /// Only those invoked at most this long ago.
    ///
    /// A child may be missing if its parent invoked it more than an hour before the row was written, because another
    /// branch of the parent was busy.
    pub newer_than: Option<Duration>,
    /// At most this many.
    pub limit: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            task: None,
            queue: None,
            state: None,
            newer_than: None,
            limit: 50,
        }
    }
}

/// How long the end of an attempt may take to be written.
const GRACE: Duration = Duration::from_secs(1);

/// The final states.
const ENDED: [Status; 3] = [Status::Completed, Status::Failed, Status::Cancelled];

impl Inspect<'_> {
    /// Returns the details of one execution, or `None` if it is unknown or was removed.
    pub async fn find(self, id: Uuid) -> Result<Option<ExecutionInfo>> {
        self.conductor.migrate().await?;
        let mut session = self.conductor.database().session().await?;
        let info = find(&mut session, id).await;
        session.settle(info).await
    }

    /// Returns the newest executions that match, newest first.
    ///
    /// A payload or output of more than 64 KiB is replaced by a text with its size; [`find`](Self::find) returns it
    /// in full.
    pub async fn list(self, filter: &Filter) -> Result<Vec<ExecutionInfo>> {
        self.conductor.migrate().await?;
        let listed = Listed {
            task: filter.task.as_deref(),
            queue: filter.queue.as_deref(),
            state: filter.state.map(|state| State {
                name: state.as_str(),
                is_final: ENDED.contains(&state),
            }),
            // An interval has a maximum; 1000 years exceed the age of any execution.
            newer_than_secs: filter
                .newer_than
                .map(|age| age.as_secs_f64().min(1000.0 * 365.0 * 86_400.0)),
            limit: i64::from(filter.limit),
        };
        let found = listing::list(self.conductor.database(), listed).await?;
        found.into_iter().map(info).collect()
    }

    /// Returns the failed attempts of an execution, the first one first.
    pub async fn failures(self, id: Uuid) -> Result<Vec<FailedAttempt>> {
        self.conductor.migrate().await?;
        let mut session = self.conductor.database().session().await?;
        let failures = failures(&mut session, id).await;
        session.settle(failures).await
    }

    /// Returns the database's time, which decides what is due.
    pub async fn now(self) -> Result<DateTime<Utc>> {
        self.conductor.migrate().await?;
        Ok(clock::now(self.conductor.database()).await?)
    }

    /// Returns whether a living process serves this task.
    #[doc(hidden)]
    pub async fn is_served(self, task: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        Ok(tasks::is_served(self.conductor.database(), task).await?)
    }

    /// Returns the names of all tasks that any program has declared in this database, in order.
    pub async fn task_names(self) -> Result<Vec<String>> {
        self.conductor.migrate().await?;
        Ok(tasks::names(self.conductor.database()).await?)
    }

    /// Returns the JSON Schema of a task's payload, as its program declared it.
    ///
    /// `None` if the database does not know the task.
    #[doc(hidden)]
    pub async fn payload_schema(self, task: &str) -> Result<Option<serde_json::Value>> {
        self.conductor.migrate().await?;
        Ok(tasks::payload_schema(self.conductor.database(), task).await?)
    }
}

pub(super) async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<ExecutionInfo>> {
    let found = listing::find(connection, id).await?;
    found.map(info).transpose()
}

pub(super) async fn failures(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Vec<FailedAttempt>> {
    let failures = listing::failures(connection, id).await?;
    let failures = failures.into_iter().map(|failed| FailedAttempt {
        attempt: failed.attempt,
        failed_at: failed.failed_at,
        error: failed.error,
    });
    Ok(failures.collect())
}

fn info(found: Found) -> Result<ExecutionInfo> {
    let overtime = found.overtime_ms.and_then(|ms| u64::try_from(ms).ok());
    Ok(ExecutionInfo {
        id: found.id,
        task: found.task,
        queue: found.queue,
        state: found.state.parse()?,
        event: found.event,
        unreadable: found.unreadable,
        priority: found.priority,
        created_at: found.created_at,
        run_at: found.run_at,
        claimed_at: found.claimed_at,
        finished_at: found.finished_at,
        failures: found.failures,
        crashes: found.crashes,
        claim: found.claim,
        retry_of: found.retry_of,
        dedupe_key: found.dedupe_key,
        trigger: Trigger::read(found.trigger.as_deref()),
        postponed: found.postponed,
        payload: raw(found.payload)?,
        output: found.output.map(raw).transpose()?,
        failure: found.failure.map(raw).transpose()?,
        error: found.error,
        stuck: match overtime.map(Duration::from_millis) {
            _ if found.process_gone == Some(true) => Some(Stuck::ProcessGone),
            Some(by) if by > GRACE => Some(Stuck::Overtime(by)),
            _ => None,
        },
    })
}

pub(super) fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json).map_err(|error| Error::Invalid(error.to_string()))
}
