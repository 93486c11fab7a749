//! The error type of the library.

mod help;
mod retryable;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use conductor_core::{nearest, one_line};
use conductor_postgres::sqlstate;
use uuid::Uuid;

/// A result with the library's error type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// `Display` is one line for people: what failed, why, and what to do. [`help`](Self::help) returns
/// the advice alone. Only texts that an application wrote, such as the error of a handler, may have
/// more lines. [`is_retryable`](Self::is_retryable) tells which errors may pass by themselves.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database refused a statement or could not be reached.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    /// The database was unavailable, or refused for a temporary reason, while the call was retried
    /// for about 30 s. Whether the call took effect is unknown.
    #[error(
        "the database has not answered for {}: {reason}. {}",
        humantime::format_duration(Duration::from_secs(waited.as_secs())),
        help::UNAVAILABLE
    )]
    Unavailable {
        /// How long the call was retried.
        waited: Duration,
        /// The driver's last error as text.
        reason: String,
        /// The driver's last error. Calls that were written together share it.
        source: Arc<sqlx::Error>,
    },
    /// `DATABASE_URL` is malformed, or the server does not answer.
    #[error("cannot connect to {url}: {reason}. {}", help::CONNECT)]
    Connect {
        /// The address, without its password.
        url: String,
        /// Why it failed.
        reason: String,
        /// The driver's error; `None` if the address did not reach the driver.
        source: Option<sqlx::Error>,
    },
    /// The schema `conductor` cannot be brought to this binary's version. The first line of the text
    /// says why; further lines are advice.
    #[error("schema: {}", one_line(.0))]
    Schema(String),
    /// No embedded Postgres could be started.
    #[error("embedded Postgres: {0}")]
    Embedded(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database does not know a task of this name.
    #[error("unknown task {name:?}{}", one_line(hint))]
    UnknownTask {
        /// The name as it was given.
        name: String,
        /// The most similar name, or empty. Further lines are advice.
        hint: String,
    },
    /// A payload cannot be stored, or does not fit its task.
    #[error("payload of task {task:?}: {reason}")]
    Payload {
        /// The task's name.
        task: String,
        /// Why it was refused.
        reason: String,
    },
    /// An output cannot be stored, or does not fit the caller's type.
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
        /// The reason of the cancel, if one was given.
        reason: Option<String>,
    },
    /// An event cannot be stored, or its JSON does not fit its struct.
    #[error("event {name:?}: {reason}")]
    Event {
        /// The event's name.
        name: String,
        /// Why it was refused.
        reason: String,
    },
    /// No event came before the wait's timeout.
    #[error("no event {event:?} came in time for the wait {key:?}")]
    NoEvent {
        /// The event's name.
        event: String,
        /// The wait's key.
        key: String,
    },
    /// No row change came before the wait's timeout.
    #[error("no {op} of a row of {table} came in time for the wait {key:?}")]
    NoRow {
        /// The table, as the wait names it.
        table: String,
        /// The operation that the wait was for.
        op: crate::row::RowOp,
        /// The wait's key.
        key: String,
    },
    /// A table or a column does not exist, or its changes cannot be listened to. Permanent.
    #[error("{0}")]
    Table(String),
    /// The lock that creating a table's trigger needs could not be obtained in time.
    #[error("the table {table} is in use, so its trigger could not be made in time{holders}")]
    Locked {
        /// The table.
        table: String,
        /// The sessions that hold it, if known: `"; it is held by …"`.
        holders: String,
    },
    /// A child did not end before the wait's timeout.
    #[error("execution {id} of task {task:?} did not end in time")]
    TimedOut {
        /// The child.
        id: Uuid,
        /// The child's task.
        task: String,
    },
    /// A key was used twice in one execution. Permanent.
    #[error(
        "the key {key:?} is used twice, by a {first} and by a {second}; {}",
        help::KEY_USED_TWICE
    )]
    KeyUsedTwice {
        /// The key.
        key: String,
        /// The kind of the first use.
        first: &'static str,
        /// The kind of the second use.
        second: &'static str,
    },
    /// A replay used a key for another kind than the recorded one. Permanent.
    #[error(
        "the key {key:?} was recorded by a {recorded} and is now used by a {now}; {}",
        help::KEY_CHANGED
    )]
    KeyChanged {
        /// The key.
        key: String,
        /// The recorded kind.
        recorded: String,
        /// The kind of this use.
        now: &'static str,
    },
    /// A wait or a transaction is inside a body, where it could not end. Permanent.
    #[error(
        "the {kind} {key:?} is inside the body of a {within}, where it could not end; {}",
        help::say_it_elsewhere(within)
    )]
    Nested {
        /// The key.
        key: String,
        /// The kind of the inner call.
        kind: &'static str,
        /// The kind of the body that contains it.
        within: &'static str,
    },
    /// A text cannot be the key of a step. Permanent.
    #[error("the key {key:?} cannot be used: {reason}")]
    Key {
        /// The key, or its beginning.
        key: String,
        /// Why it was refused.
        reason: String,
    },
    /// The value of a step cannot be stored, or this build cannot read it.
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
    /// The orchestrator cannot start with these tasks, workers and states; one text for each fault.
    #[error("cannot start: {}", .0.iter().map(|fault| one_line(fault)).collect::<Vec<_>>().join("; "))]
    Refused(Vec<String>),
    /// A part of a running orchestrator has ended because of a bug in the library, or the
    /// application has closed the pool that it uses.
    #[error("the orchestrator has stopped: {0}")]
    Broken(String),
    /// An option or an argument has an invalid value.
    #[error("{0}")]
    Invalid(String),
}

/// The names of the linked tasks, for [`Error::UnknownTask`]. Set when they are collected, which each client does.
pub(crate) static LINKED_TASKS: OnceLock<Vec<&'static str>> = OnceLock::new();

impl Error {
    /// Returns the error for an unknown task, with the most similar one of the known tasks.
    pub(crate) fn unknown_task<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Self {
        let hint = match nearest(name, known) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => String::new(),
        };
        Self::UnknownTask {
            name: name.to_owned(),
            hint,
        }
    }

    pub(crate) fn event(name: &str, reason: impl ToString) -> Self {
        Self::Event {
            name: name.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Returns the error for a duration longer than 1000 years, which the database's times cannot hold.
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

#[cfg(feature = "embedded")]
impl From<conductor_embedded::EmbeddedError> for Error {
    fn from(error: conductor_embedded::EmbeddedError) -> Self {
        Error::Embedded(Box::new(error))
    }
}

impl From<conductor_postgres::Error> for Error {
    fn from(error: conductor_postgres::Error) -> Self {
        use conductor_postgres::Error as E;
        match error {
            E::Database(error) => error.into(),
            E::Unavailable {
                waited,
                reason,
                source,
            } => Error::Unavailable {
                waited,
                reason,
                source,
            },
            E::Connect {
                url,
                reason,
                source,
            } => Error::Connect {
                url,
                reason,
                source,
            },
            E::Schema(text) => Error::Schema(text),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        // The functions in migrations/ raise these codes for mistakes of the caller.
        if let sqlx::Error::Database(db) = &error {
            match db.code().as_deref() {
                Some(sqlstate::UNKNOWN_TASK) => {
                    // The name may contain quotes.
                    let quoted = db.message().split_once('"').map_or("", |(_, rest)| rest);
                    let name = quoted.strip_suffix('"').unwrap_or(quoted);
                    let linked = LINKED_TASKS.get().into_iter().flatten().copied();
                    return Self::unknown_task(name, linked);
                }
                Some(sqlstate::INVALID_ARGUMENT) => return Error::Invalid(db.message().to_owned()),
                _ => {}
            }
        }
        Error::Database(error)
    }
}
