//! What the library returns.

use std::time::Duration;

use uuid::Uuid;

use crate::registry::Registry;

/// The library's own result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, written for the person who reads it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database refused a statement or could not be reached.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    /// The database was away, or refused for a passing reason, for as long as the call was tried again:
    /// about 30 s.
    #[error(
        "the database has not answered for {}: {reason}\n  It is not known whether the call took effect. Try it again when the database is back; with a dedupe_key nothing is made twice, unless the first one has ended by then.",
        humantime::format_duration(Duration::from_secs(waited.as_secs()))
    )]
    Unavailable {
        /// How long it was tried.
        waited: Duration,
        /// What the driver said last.
        reason: String,
    },
    /// `DATABASE_URL` is malformed, or the server behind it does not answer.
    #[error(
        "cannot connect to {url}: {reason}\n  Set DATABASE_URL to a reachable Postgres 14 or later, or unset it to use the embedded one."
    )]
    Connect {
        /// The address, without its password.
        url: String,
        /// What the driver said.
        reason: String,
    },
    /// The schema `conductor` cannot be brought to this binary's version.
    #[error("schema: {0}")]
    Schema(String),
    /// No embedded Postgres could be started.
    #[error("embedded Postgres: {0}")]
    Embedded(String),
    /// A name that the database does not know.
    #[error("unknown task {name:?}{hint}")]
    UnknownTask {
        /// The name as it was given.
        name: String,
        /// A sentence with the nearest names, or nothing.
        hint: String,
    },
    /// A payload that does not fit its task, or that cannot be stored.
    #[error("payload of task {task:?}: {reason}")]
    Payload {
        /// The task's name.
        task: String,
        /// Why it was refused.
        reason: String,
    },
    /// An output that cannot be stored, or that the caller's type cannot read.
    #[error("output of task {task:?}: {reason}")]
    Output {
        /// The task's name.
        task: String,
        /// Why it was refused.
        reason: String,
    },
    /// The execution ended as `failed`.
    #[error("execution {id} of task {task:?} failed: {error}")]
    Failed {
        /// The execution.
        id: Uuid,
        /// The task's name.
        task: String,
        /// The text of the last attempt's error.
        error: String,
    },
    /// The execution ended as `cancelled`.
    #[error("execution {id} of task {task:?} was cancelled{}", reason_suffix(.reason))]
    Cancelled {
        /// The execution.
        id: Uuid,
        /// The task's name.
        task: String,
        /// What the canceller gave as reason.
        reason: Option<String>,
    },
    /// An event whose JSON is not what its struct wants, or that cannot be stored.
    #[error("event {name:?}: {reason}")]
    Event {
        /// The event's name.
        name: String,
        /// Why it was refused.
        reason: String,
    },
    /// No event came within the wait's timeout.
    #[error("no event {event:?} came in time for the wait {key:?}")]
    NoEvent {
        /// The event's name.
        event: String,
        /// The wait's key.
        key: String,
    },
    /// No change of a row came within the wait's timeout.
    #[error("no {op} of a row of {table} came in time for the wait {key:?}")]
    NoRow {
        /// The table, as the wait names it.
        table: String,
        /// What was to happen to a row.
        op: crate::row::RowOp,
        /// The wait's key.
        key: String,
    },
    /// A table or a column that is not there, or whose changes cannot be heard. Permanent.
    #[error("{0}")]
    Table(String),
    /// The lock that a trigger on a table needs was not to be had.
    #[error("the table {table} is in use, so its trigger could not be made in time{holders}")]
    Locked {
        /// The table.
        table: String,
        /// Who holds it, where that is known: `"; it is held by …"`.
        holders: String,
    },
    /// A child did not end within the wait's timeout.
    #[error("execution {id} of task {task:?} did not end in time")]
    TimedOut {
        /// The child.
        id: Uuid,
        /// The child's task.
        task: String,
    },
    /// A key was used twice in one execution. Permanent.
    #[error(
        "the key {key:?} is used twice, by a {first} and by a {second}; each step of an execution needs a key of its own"
    )]
    KeyUsedTwice {
        /// The key.
        key: String,
        /// What used it first.
        first: &'static str,
        /// What used it again.
        second: &'static str,
    },
    /// A replay met a key with another kind than the one that was recorded. Permanent.
    #[error(
        "the key {key:?} was recorded by a {recorded} and is now used by a {now}; give the new one another key"
    )]
    KeyChanged {
        /// The key.
        key: String,
        /// What recorded it.
        recorded: String,
        /// What met it now.
        now: &'static str,
    },
    /// A wait, or a transaction, in a place where it could not end. Permanent.
    #[error(
        "the {kind} {key:?} is inside the body of a {within}, where it could not end; say it before or after the {within}"
    )]
    Nested {
        /// The key.
        key: String,
        /// What is inside.
        kind: &'static str,
        /// What has the body.
        within: &'static str,
    },
    /// A text that cannot be the key of a step. Permanent.
    #[error("the key {key:?} cannot be used: {reason}")]
    Key {
        /// The key, or its beginning.
        key: String,
        /// Why it was refused.
        reason: String,
    },
    /// The value of a step that cannot be stored, or that this build cannot read.
    #[error("step {key:?}: {reason}")]
    Step {
        /// The key.
        key: String,
        /// Why it was refused.
        reason: String,
    },
    /// No execution has this id, or it was removed after its retention.
    #[error("no execution has the id {0}; finished ones are removed after the task's `keep`")]
    NotFound(Uuid),
    /// The orchestrator cannot start with these tasks, workers and states.
    #[error("cannot start:\n{}", .0.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<String>),
    /// A part of a running orchestrator has ended, by a fault of the library's, or the application has closed the
    /// pool that it works with.
    #[error("the orchestrator has stopped: {0}")]
    Broken(String),
    /// An option has a value that cannot be used.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn event(name: &str, reason: impl ToString) -> Self {
        Self::Event {
            name: name.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// The error for a duration that the database's clock could not follow.
pub(crate) fn too_long(duration: Duration) -> Option<Error> {
    const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);
    (duration > LONGEST).then(|| {
        Error::Invalid(format!(
            "a duration of {} is longer than 1000 years",
            humantime::format_duration(duration)
        ))
    })
}

fn reason_suffix(reason: &Option<String>) -> String {
    reason
        .as_deref()
        .map(|r| format!(": {r}"))
        .unwrap_or_default()
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        // The functions in migrations/ raise these codes for mistakes of the caller.
        if let sqlx::Error::Database(db) = &error {
            match db.code().as_deref() {
                Some("CD001") => {
                    // The name may hold quotes of its own.
                    let quoted = db.message().split_once('"').map_or("", |(_, rest)| rest);
                    let name = quoted.strip_suffix('"').unwrap_or(quoted);
                    return Registry::global().unknown(name);
                }
                Some("CD002") => return Error::Invalid(db.message().to_owned()),
                _ => {}
            }
        }
        Error::Database(error)
    }
}
