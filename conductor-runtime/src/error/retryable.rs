//! Which errors a later call of the same kind may be without.

use conductor_postgres::{Fault, fault, is_lasting};

use super::Error;

impl Error {
    /// Returns whether the same call may succeed later without a change to code, data or settings.
    ///
    /// It concerns calls of a client. Within a handler, the task's retry policy decides; see
    /// [`RetryExt`](crate::verdict::RetryExt).
    ///
    /// | variant | retryable | why |
    /// | --- | --- | --- |
    /// | [`Database`](Self::Database) | depends | Yes for a broken connection, a timeout, a deadlock or a server that is starting. No for a refused statement, a missing grant and a closed pool |
    /// | [`Unavailable`](Self::Unavailable) | yes | The outage may end. The call may have taken effect, so repeat it only with a `dedupe_key`, or if a second effect is harmless |
    /// | [`Connect`](Self::Connect) | depends | Yes if the server did not answer. No if the address is malformed or the server refused the login |
    /// | [`Locked`](Self::Locked) | yes | The transactions that hold the table end |
    /// | [`Schema`](Self::Schema) | no | A deploy, a grant or the end of older processes is needed; the call has already waited for them |
    /// | [`Embedded`](Self::Embedded) | no | The machine or its settings have to change |
    /// | [`UnknownTask`](Self::UnknownTask) | no | The name is wrong, or its program has never run |
    /// | [`Payload`](Self::Payload), [`Output`](Self::Output), [`Event`](Self::Event), [`Step`](Self::Step) | no | The value does not change |
    /// | [`Invalid`](Self::Invalid), [`Table`](Self::Table), [`Refused`](Self::Refused) | no | The arguments, the tables or the code have to change |
    /// | [`Failed`](Self::Failed), [`Cancelled`](Self::Cancelled) | no | The outcome is final; [`Conductor::retry`](crate::client::Conductor::retry) creates a new execution |
    /// | [`NotFound`](Self::NotFound) | no | Ids are not used again |
    /// | [`NoEvent`](Self::NoEvent), [`NoRow`](Self::NoRow), [`TimedOut`](Self::TimedOut) | no | The timeout is recorded, and a replay sees it again |
    /// | [`KeyUsedTwice`](Self::KeyUsedTwice), [`KeyChanged`](Self::KeyChanged), [`Nested`](Self::Nested), [`Key`](Self::Key) | no | The code of the handler has to change |
    /// | [`Broken`](Self::Broken) | no | This orchestrator does not start again; a new one may |
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Locked { .. } => true,
            Self::Database(error) => may_pass(error),
            Self::Connect { source, .. } => source.as_ref().is_some_and(may_pass),
            Self::Schema(_)
            | Self::Embedded(_)
            | Self::UnknownTask { .. }
            | Self::Payload { .. }
            | Self::Output { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. }
            | Self::Event { .. }
            | Self::NoEvent { .. }
            | Self::NoRow { .. }
            | Self::Table(_)
            | Self::TimedOut { .. }
            | Self::KeyUsedTwice { .. }
            | Self::KeyChanged { .. }
            | Self::Nested { .. }
            | Self::Key { .. }
            | Self::Step { .. }
            | Self::NotFound(_)
            | Self::Refused(_)
            | Self::Broken(_)
            | Self::Invalid(_) => false,
        }
    }
}

fn may_pass(error: &sqlx::Error) -> bool {
    let for_good = matches!(
        error,
        sqlx::Error::PoolClosed | sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_)
    );
    !for_good && fault(error) == Fault::Passing && !is_lasting(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn connect(source: Option<sqlx::Error>) -> Error {
        Error::Connect {
            url: String::new(),
            reason: String::new(),
            source,
        }
    }

    #[test]
    fn only_what_passes_by_itself_is_retryable() {
        for error in [
            Error::Unavailable {
                waited: Duration::ZERO,
                reason: String::new(),
                source: Arc::new(sqlx::Error::PoolTimedOut),
            },
            Error::Database(sqlx::Error::PoolTimedOut),
            connect(Some(sqlx::Error::PoolTimedOut)),
            Error::Locked {
                table: String::new(),
                holders: String::new(),
            },
        ] {
            assert!(error.is_retryable(), "{error:?}");
        }
        for error in [
            Error::Database(sqlx::Error::PoolClosed),
            Error::Database(sqlx::Error::Decode("no number".into())),
            connect(None),
            connect(Some(sqlx::Error::Configuration("bad port".into()))),
            Error::Schema(String::new()),
            Error::Invalid(String::new()),
        ] {
            assert!(!error.is_retryable(), "{error:?}");
        }
    }
}
