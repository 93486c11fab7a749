use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::is_read_only;
use super::{Database, ReadOnly};
use crate::sqlstate::{ADMIN_SHUTDOWN, CANNOT_CONNECT_NOW, CRASH_SHUTDOWN, TOO_MANY_CONNECTIONS};

/// An outage that follows the last one this soon is logged only after it has lasted for a while.
const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_secs(2);
/// When a chore's repeated error is logged again.
const AGAIN: Duration = Duration::from_secs(60);

/// Whether the database is unavailable, as far as this process has noticed. The log reports it once, and not for each
/// part of the process and each try.
#[derive(Debug, Default)]
pub struct Outage {
    away: AtomicBool,
    state: Mutex<State>,
    read_only: Arc<ReadOnly>,
    /// The errors of chores, each with the time when it was logged.
    chores: Mutex<HashMap<&'static str, (String, Instant)>>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    told: bool,
    ended: Option<Instant>,
}

impl Outage {
    /// Creates it for this database.
    pub fn of(database: &Database) -> Self {
        Self {
            read_only: Arc::clone(database.read_only()),
            ..Self::default()
        }
    }

    /// Returns whether this error of a chore should be logged: the same one is logged once a minute.
    pub fn is_news(&self, chore: &'static str, text: &str) -> bool {
        let mut chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chores
            .get(chore)
            .is_some_and(|(told, at)| told == text && at.elapsed() < AGAIN);
        if !known {
            chores.insert(chore, (text.to_owned(), Instant::now()));
        }
        !known
    }

    /// Returns true if the error shows that the server is unavailable; it is then already logged.
    pub fn met(&self, error: &sqlx::Error) -> bool {
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

    /// Notes that the database has answered.
    pub fn over(&self) {
        // A server that refuses writes answers as well, and the heartbeat has a connection of its own.
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

/// The codes of a server that takes no statements for now, besides those of class 08.
const AWAY: [&str; 4] = [
    ADMIN_SHUTDOWN,
    CRASH_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    TOO_MANY_CONNECTIONS,
];

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut => true,
        // A connection failure, a server that is starting or ending, too many connections, or a server that refuses
        // writes.
        sqlx::Error::Database(db) => {
            let code = db.code().unwrap_or_default();
            code.starts_with("08") || AWAY.contains(&code.as_ref()) || is_read_only(error)
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
