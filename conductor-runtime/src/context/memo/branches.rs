//! What the branches of races are given, and when it was over.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::{Asked, Memo};

/// A time by the database's clock, in microseconds since 1970.
pub(in crate::context) type Micros = i64;

/// What a branch of a race was given: when the last of it was over, and the waits and sleeps of its last poll.
#[derive(Debug, Default)]
pub(in crate::context) struct Given {
    pub(in crate::context) at: Option<Micros>,
    pub(super) keys: Vec<String>,
}

/// What a race tells with its record of the waits that were loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decided {
    pub(crate) had: Vec<String>,
    pub(crate) withdrawn: Vec<String>,
}

/// A branch of a race while it is polled.
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
        // What polls its futures only where they were woken must poll them in the next round.
        let held = std::mem::take(&mut present.held);
        drop(present);
        held.into_iter().for_each(Waker::wake);
    }
}

impl Memo {
    /// The handler is given what is recorded under this key.
    pub(in crate::context) fn give(&self, key: &str) {
        let mut present = self.present();
        let at = present.entries.get(key).and_then(|entry| entry.at);
        present.give_at(at);
    }

    /// The handler is given what is over now.
    pub(in crate::context) fn give_at(&self, at: Micros) {
        self.present().give_at(Some(at));
    }

    /// Polls a branch of a race, and adds to what it was given. With `looking`, nothing new begins in it.
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

    /// What a branch was given in a look is free again: it has lost before anything followed from it.
    pub(in crate::context) fn take_back(&self, given: &Given) {
        let mut present = self.present();
        for key in &given.keys {
            present.asked.remove(key);
        }
    }

    /// Waits while races look at what is over already.
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

    /// What a race writes with its record: the loose keys whose values the handler has had, so that what
    /// a losing branch was given stays given, and those of waits that were dropped.
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
