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
        // A stale plan after DDL, a disk that is full, memory that is short.
        "0A000" => Fault::Passing,
        // Connection, rollback of a transaction, resources, operator intervention, system error.
        _ if ["08", "25", "40", "53", "55", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Fault::Passing
        }
        _ => Fault::Refused,
    }
}
