use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::is_read_only;

/// For how long after the last refused write each session is tested before it is used.
const WARY: Duration = Duration::from_secs(30);
/// A success this soon after a refused write came from another connection.
const RECENT: Duration = Duration::from_secs(5);
/// The pause between two tests of all idle sessions.
const BETWEEN_PURGES: Duration = Duration::from_secs(1);

/// Whether sessions were found that cannot write: of a standby, or of a read-only primary.
///
/// If a server's name leads to another server for a while (a failover, a load balancer), sessions opened then would
/// stay in the pool after it leads to the primary again. Therefore each session is tested before it is used, for a
/// while after the last refused write, and those that cannot write are closed.
#[derive(Debug, Default)]
pub struct ReadOnly {
    wary: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the server last refused a write.
    seen: Option<Instant>,
    /// When a tested session last could not write. This does not prolong the tests, because otherwise an application
    /// that only reads would be refused forever.
    refused: Option<Instant>,
}

/// When the idle sessions of one pool were last tested. The signs for it come from any pool.
#[derive(Debug, Default)]
pub(crate) struct Purged(Mutex<Option<Instant>>);

impl ReadOnly {
    /// Notes the error if it comes from a session that cannot write.
    pub fn heed(&self, error: &sqlx::Error) {
        if is_read_only(error) {
            self.seen();
        }
    }

    pub(crate) fn seen(&self) {
        self.state().seen = Some(Instant::now());
        self.wary.store(true, Relaxed);
    }

    /// Notes that a tested session cannot write.
    pub(crate) fn tested(&self) {
        self.state().refused = Some(Instant::now());
    }

    /// Returns whether sessions must be tested before they are used.
    pub(crate) fn is_wary(&self) -> bool {
        if !self.wary.load(Relaxed) {
            return false;
        }
        let wary = self.state().seen.is_some_and(|at| at.elapsed() < WARY);
        if !wary {
            self.wary.store(false, Relaxed);
        }
        wary
    }

    /// Returns whether a session that cannot write was met a moment ago.
    pub(crate) fn is_recent(&self) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < RECENT);
        self.wary.load(Relaxed) && {
            let state = self.state();
            recent(state.seen) || recent(state.refused)
        }
    }

    /// Returns whether it is time to test all idle sessions of a pool; true for only one of the callers.
    pub(crate) fn purges(&self, purged: &Purged) -> bool {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
