use super::has_code;

/// What the server says where a lock was not to be had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What an error of the database means for the statement that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection or the server failed, or the statement lost a race: send it again.
    Passing,
    /// This process's lease is over (raised by `conductor.claim`).
    LeaseLost,
    /// The statement itself is refused: sending it again gives the same.
    Refused,
}

pub(crate) fn fault(error: &sqlx::Error) -> Fault {
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
        "CD003" => Fault::LeaseLost,
        // What is wrong with the data, or what a trigger or a function of ours says of it. Anything
        // else, such as a missing grant or a function under change, may be mended meanwhile.
        _ if ["22", "23", "54", "P0", "CD"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Fault::Refused
        }
        _ => Fault::Passing,
    }
}

/// Whether it is about what is asked for, or who asks, and seldom passes within seconds: a missing
/// grant, a function under change. A worker waits for its end, a caller is told.
pub(crate) fn is_lasting(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|db| db.code());
    let code = code.unwrap_or_default();
    ["0A", "28", "3D", "3F", "42"]
        .iter()
        .any(|class| code.starts_with(class))
}

/// Whether somebody's transaction had locked what the statement wanted.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    has_code(error, LOCK_NOT_AVAILABLE)
}
