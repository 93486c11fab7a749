//! What the branches of races have received, and when it was over.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::{Asked, Memo};

/// A time by the database's clock, in microseconds since 1970.
pub(in crate::context) type Micros = i64;

/// What a branch of a race has received: the time when the last result was over, and the keys of the waits and sleeps
/// of its last poll.
#[derive(Debug, Default)]
pub(in crate::context) struct Given {
    pub(in crate::context) at: Option<Micros>,
    pub(super) keys: Vec<String>,
}

/// What a race writes with its record about the waits that were loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decided {
    pub(crate) had: Vec<String>,
    pub(crate) withdrawn: Vec<String>,
}

/// A guard for a branch of a race while it is polled.
#[derive(Debug)]
struct Look<'m, 'g> {
    memo: &'m Memo,
    given: &'g mut Given,
    looking: bool,
}

impl Drop for Look<'_, '_> {
    fn drop(&mut self) {
        let mut present = self.memo.present();
        *self.given = present.branches.pop().unwrap_or_default();
        present.looking -= usize::from(self.looking);
        if present.looking > 0 {
            return;
        }
        // Futures that are polled only after a wake must be polled in the next round.
        let held = std::mem::take(&mut present.held);
        drop(present);
        held.into_iter().for_each(Waker::wake);
    }
}

impl Memo {
    /// Notes that the handler receives the record of this key.
    pub(in crate::context) fn give(&self, key: &str) {
        let mut present = self.present();
        let at = present.entries.get(key).and_then(|entry| entry.at);
        present.give_at(at);
    }

    /// Notes that the handler receives something that ended at this time.
    pub(in crate::context) fn give_at(&self, at: Micros) {
        self.present().give_at(Some(at));
    }

    /// Polls a branch of a race and collects what it receives. With `looking`, nothing new begins in it.
    pub(in crate::context) fn poll_branch<T>(
        &self,
        given: &mut Given,
        looking: bool,
        poll: impl FnOnce() -> T,
    ) -> T {
        {
            let mut present = self.present();
            given.keys.clear();
            present.branches.push(std::mem::take(given));
            present.looking += usize::from(looking);
        }
        let _look = Look {
            memo: self,
            given,
            looking,
        };
        poll()
    }

    /// Releases what a branch received in a first round: it has lost before its code could act on it.
    pub(in crate::context) fn take_back(&self, given: &Given) {
        let mut present = self.present();
        for key in &given.keys {
            present.asked.remove(key);
        }
    }

    /// Waits while races are in their first round.
    pub(crate) async fn looked(&self) {
        poll_fn(|cx| {
            let mut present = self.present();
            if present.looking == 0 {
                return Poll::Ready(());
            }
            present.held.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Returns what a race writes with its record: the keys of the waits whose results the handler has received,
    /// which stay received even in a losing branch, and those of waits that were dropped.
    pub(in crate::context) fn decided(&self) -> Decided {
        let present = self.present();
        let mut decided = Decided::default();
        for (key, _) in (present.entries.iter()).filter(|(_, entry)| entry.loose) {
            match present.asked.get(key) {
                Some(Asked::Had) => decided.had.push(key.clone()),
                Some(Asked::Wanted) => {}
                None if present.met.contains_key(key) => decided.withdrawn.push(key.clone()),
                None => {}
            }
        }
        decided
    }
}
