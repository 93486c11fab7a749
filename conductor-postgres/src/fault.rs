//! What the driver's errors mean, and errors of our own in its type.

use crate::sqlstate::{LEASE_LOST, LOCK_NOT_AVAILABLE, READ_ONLY_SQL_TRANSACTION};

/// How to react to an error of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection or the server failed, or the statement lost a race: retry.
    Passing,
    /// This process's lease is over (raised by `conductor.claim`).
    LeaseLost,
    /// The statement itself is refused; a retry would fail in the same way.
    Refused,
}

/// Returns how to react to this error.
pub fn fault(error: &sqlx::Error) -> Fault {
    let sqlx::Error::Database(db) = error else {
        return match error {
            sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::TypeNotFound { .. } => Fault::Refused,
            _ => Fault::Passing,
        };
    };
    let code = db.code().unwrap_or_default();
    match code.as_ref() {
        LEASE_LOST => Fault::LeaseLost,
        // Invalid data, or an error that a trigger or a function of the library raises. Anything
        // else, such as a missing grant or a function that is being replaced, may be repaired
        // meanwhile.
        _ if ["22", "23", "54", "P0", "CD"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Fault::Refused
        }
        _ => Fault::Passing,
    }
}

/// Returns whether the error concerns the request or the role, and is unlikely to pass within
/// seconds: a missing grant, a function that is being replaced. A worker waits until it is
/// repaired; a client's call fails.
pub fn is_lasting(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|db| db.code());
    let code = code.unwrap_or_default();
    ["0A", "28", "3D", "3F", "42"]
        .iter()
        .any(|class| code.starts_with(class))
}

/// Returns whether another transaction had locked what the statement needed.
pub fn is_locked(error: &sqlx::Error) -> bool {
    has_code(error, LOCK_NOT_AVAILABLE)
}

/// Returns whether Postgres reported this SQLSTATE.
pub fn has_code(error: &sqlx::Error, code: &str) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.code().as_deref() == Some(code))
}

/// Returns whether the session refuses writes.
pub(crate) fn is_read_only(error: &sqlx::Error) -> bool {
    has_code(error, READ_ONLY_SQL_TRANSACTION)
}

/// Returns the error for a caller if no available session can write.
pub(crate) fn refusal() -> sqlx::Error {
    sqlx::Error::Protocol(
        "the server takes no writes: it is a standby, or its default_transaction_read_only is on"
            .to_owned(),
    )
}

/// Returns the error of a statement that was not answered.
pub(crate) fn silence() -> sqlx::Error {
    sqlx::Error::Protocol("no answer in time".to_owned())
}
