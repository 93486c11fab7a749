use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Session;
use super::session::silence;

/// For how long behind the last sign each session is asked before it is used.
const WARY: Duration = Duration::from_secs(30);
/// How long a session may take to say what it is.
const ASKED: Duration = Duration::from_secs(1);
/// A success so soon behind a sign is that of another connection.
const RECENT: Duration = Duration::from_secs(5);
/// Between two looks at all idle sessions.
const BETWEEN_PURGES: Duration = Duration::from_secs(1);

const READ_ONLY_SQL_TRANSACTION: &str = "25006";

/// Whether sessions have been met that cannot write: of a standby, or of a primary that is read-only.
///
/// Where the name of a server leads to another one for a while (a failover, a load balancer), sessions that
/// were opened then would stay in the pool when it leads to the primary again. So each is asked before it is
/// used, for a while behind the last sign, and those that cannot write are closed.
#[derive(Debug, Default)]
pub(crate) struct ReadOnly {
    wary: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The server's error.
    seen: Option<Instant>,
    /// A session that was asked and cannot write: no reason to ask for longer, as whoever only reads would be
    /// refused without end.
    refused: Option<Instant>,
}

/// When the idle sessions of one pool were last looked at. What tells that there may be such is met on any.
#[derive(Debug, Default)]
pub(super) struct Purged(Mutex<Option<Instant>>);

impl ReadOnly {
    /// Takes note of an error, where it is one of a session that cannot write.
    pub(crate) fn heed(&self, error: &sqlx::Error) {
        if is_read_only(error) {
            self.seen();
        }
    }

    pub(super) fn seen(&self) {
        self.state().seen = Some(Instant::now());
        self.wary.store(true, Relaxed);
    }

    /// Whether sessions are to be asked before they are used.
    pub(super) fn is_wary(&self) -> bool {
        if !self.wary.load(Relaxed) {
            return false;
        }
        let wary = self.state().seen.is_some_and(|at| at.elapsed() < WARY);
        if !wary {
            self.wary.store(false, Relaxed);
        }
        wary
    }

    /// Whether a session that cannot write was met a moment ago.
    pub(super) fn is_recent(&self) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < RECENT);
        self.wary.load(Relaxed) && {
            let state = self.state();
            recent(state.seen) || recent(state.refused)
        }
    }

    /// Whether it is time to look at all idle sessions of a pool; true for one of those who ask.
    pub(super) fn purges(&self, purged: &Purged) -> bool {
        let seen = self.state().seen;
        let mut purged = purged.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = match (seen, *purged) {
            (Some(seen), Some(purged)) => seen > purged && purged.elapsed() >= BETWEEN_PURGES,
            (seen, _) => seen.is_some(),
        };
        if due {
            *purged = Some(Instant::now());
        }
        due
    }

    /// Whether this session can write. One that does not say is closed with it.
    pub(super) async fn can_write(&self, session: &mut Session) -> Result<bool, sqlx::Error> {
        use sqlx::Row;
        let asked = sqlx::raw_sql(
            "select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off'",
        )
        .fetch_one(&mut **session);
        let said = match tokio::time::timeout(ASKED, asked).await {
            Ok(Ok(row)) => row.try_get(0),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(silence()),
        };
        match said {
            Ok(true) => return Ok(true),
            Ok(false) => self.state().refused = Some(Instant::now()),
            Err(_) => {}
        }
        session.close_on_drop();
        said
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller is told where all sessions that are to be had cannot write.
pub(super) fn refusal() -> sqlx::Error {
    sqlx::Error::Protocol(
        "the server takes no writes: it is a standby, or its default_transaction_read_only is on"
            .to_owned(),
    )
}

pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|db| db.code());
    code.is_some_and(|code| code == READ_ONLY_SQL_TRANSACTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_is_one_callers() {
        let read_only = ReadOnly::default();
        let (purged, another) = (Purged::default(), Purged::default());
        assert!(!read_only.is_wary() && !read_only.purges(&purged));
        read_only.heed(&sqlx::Error::PoolTimedOut);
        assert!(!read_only.is_wary());
        read_only.seen();
        assert!(read_only.is_wary() && read_only.is_recent());
        assert!(read_only.purges(&purged));
        read_only.seen();
        assert!(!read_only.purges(&purged), "so soon again");
        assert!(
            read_only.purges(&another),
            "the other pool was not looked at"
        );
    }
}
