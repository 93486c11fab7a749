use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::read_only::is_read_only;
use super::{Database, ReadOnly};

/// What comes so soon behind the last outage is not told again before it has lasted a while itself.
const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_secs(2);
/// Until what a chore meets again and again is told again.
const AGAIN: Duration = Duration::from_secs(60);

/// Whether the database is away, as far as this process has noticed; so that the log says it once and
/// not once for each part of the process and each try.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    away: AtomicBool,
    state: Mutex<State>,
    read_only: Arc<ReadOnly>,
    /// What chores have met, each with the time when it was told.
    chores: Mutex<HashMap<&'static str, (String, Instant)>>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    told: bool,
    ended: Option<Instant>,
}

impl Outage {
    pub(crate) fn of(database: &Database) -> Self {
        Self {
            read_only: Arc::clone(database.read_only()),
            ..Self::default()
        }
    }

    /// Whether this text of a chore is to be told: the same one is once a minute.
    pub(crate) fn is_news(&self, chore: &'static str, text: &str) -> bool {
        let mut chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chores
            .get(chore)
            .is_some_and(|(told, at)| told == text && at.elapsed() < AGAIN);
        if !known {
            chores.insert(chore, (text.to_owned(), Instant::now()));
        }
        !known
    }

    /// True where the error says that the server or the way to it is away: then all is said that is
    /// to be said of it.
    pub(crate) fn met(&self, error: &sqlx::Error) -> bool {
        if !is_away(error) {
            return false;
        }
        self.read_only.heed(error);
        self.away.store(true, Relaxed);
        let mut state = self.state();
        let since = *state.since.get_or_insert_with(Instant::now);
        let soon = state.ended.is_some_and(|ended| ended.elapsed() < SOON);
        if state.told || soon && since.elapsed() < A_WHILE {
            tracing::debug!(%error, "the database is away");
        } else {
            state.told = true;
            tracing::warn!(%error,
                "the database is away; outcomes are kept in memory and everything is tried again until it is back");
        }
        true
    }

    /// The database has answered.
    pub(crate) fn over(&self) {
        // A server that takes no writes answers as well, and the heartbeat has a connection of its own.
        if self.read_only.is_recent() || !self.away.swap(false, Relaxed) {
            return;
        }
        let mut state = self.state();
        let since = state.since.take();
        if std::mem::take(&mut state.told) {
            state.ended = Some(Instant::now());
            let after = since.map(|since| since.elapsed()).unwrap_or_default();
            tracing::info!(?after, "the database is back");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut => true,
        // A connection's failure, what a server says that ends or starts, too many connections, and one that
        // takes no writes.
        sqlx::Error::Database(db) => {
            let code = db.code().unwrap_or_default();
            code.starts_with("08")
                || ["57P01", "57P02", "57P03", "53300"].contains(&code.as_ref())
                || is_read_only(error)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_statement_meets_is_no_outage() {
        let outage = Outage::default();
        assert!(!outage.met(&sqlx::Error::RowNotFound));
        assert!(outage.state().since.is_none());
        assert!(outage.met(&sqlx::Error::PoolTimedOut));
        assert!(outage.state().told);
        outage.over();
        assert!(outage.met(&sqlx::Error::PoolTimedOut));
        assert!(!outage.state().told);
    }
}
