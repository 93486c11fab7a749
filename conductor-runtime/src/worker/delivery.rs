//! Outcomes until they are known to be written.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use conductor_postgres::store::Claim;
use conductor_postgres::take_message;
use uuid::Uuid;

use super::outcome::{End, Outcome, Unwritten};
use super::protocol::Exchanged;

/// When outcomes that were refused in every form are sent again.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// The pause between tries of locked outcomes. A try itself waits for the lock for a while.
const PAUSE: Duration = Duration::from_millis(100);
/// The most outcomes in one try.
const MOST_TRIED: usize = 500;

/// Outcomes that are not known to be written, except those in a round trip, which come back if it fails.
#[derive(Debug)]
pub(super) struct Delivery {
    /// The bytes of all outcomes, including those in round trips.
    unwritten: Unwritten,
    /// They go with the next round trip.
    ready: Vec<Outcome>,
    /// Outcomes that the database refuses in every form; sent again from time to time.
    refused: Vec<Outcome>,
    refused_at: Instant,
    /// Outcomes of executions that another transaction has locked. Those of one execution at a time are sent
    /// separately, so that they queue for the lock; a query that only tests it may never find it free.
    locked: VecDeque<Outcome>,
    trying: Option<Trying>,
    not_before: Instant,
}

/// The locked outcomes that are being sent.
#[derive(Debug)]
struct Trying {
    claims: Vec<(Uuid, Claim)>,
    /// All rows that they change.
    touches: HashSet<Uuid>,
}

/// The result of sending locked outcomes.
#[derive(Debug)]
pub(super) enum Tried {
    Written,
    StillLocked(Vec<Outcome>),
    /// Another fault occurred, which the normal round trips handle.
    Failed(Vec<Outcome>),
    /// The try panicked. The executions are recovered after the lease.
    Lost,
}

/// Returns the rows that an outcome changes: the execution, and the parent that is informed of its end.
pub(super) fn touched(outcome: &Outcome) -> impl Iterator<Item = Uuid> {
    [Some(outcome.id), outcome.parent].into_iter().flatten()
}

/// Removes the outcomes that change any of these rows.
pub(super) fn take_touching(outcomes: &mut Vec<Outcome>, rows: &HashSet<Uuid>) -> Vec<Outcome> {
    let touches = |outcome: &mut Outcome| touched(outcome).any(|id| rows.contains(&id));
    outcomes.extract_if(.., touches).collect()
}

impl Delivery {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unwritten: Unwritten::default(),
            ready: Vec::new(),
            refused: Vec::new(),
            refused_at: now,
            locked: VecDeque::new(),
            trying: None,
            not_before: now,
        }
    }

    /// Adds an end that must be written.
    pub(super) fn keep(&mut self, id: Uuid, claim: Claim, parent: Option<Uuid>, end: End) {
        let outcome = Outcome::new(id, claim, parent, end, &self.unwritten);
        self.ready.push(outcome);
    }

    /// Returns the bytes that are not written, including those in round trips.
    pub(super) fn bytes(&self) -> usize {
        self.unwritten.bytes()
    }

    /// Returns what the next round trip would write.
    pub(super) fn ready(&self) -> &[Outcome] {
        &self.ready
    }

    /// Sets those aside that would wait for the same locks as others do. Called before [`take`](Self::take).
    pub(super) fn set_aside(&mut self) {
        if self.has_locked() {
            let locked = self.locked.iter().flat_map(touched);
            let trying = self.trying.iter().flat_map(|trying| &trying.touches);
            let rows = locked.chain(trying.copied()).collect();
            self.locked.extend(take_touching(&mut self.ready, &rows));
        }
    }

    /// Removes what fits into one message.
    pub(super) fn take(&mut self) -> Vec<Outcome> {
        take_message(&mut self.ready, usize::MAX, Outcome::bytes)
    }

    /// Takes back what a round trip has not written.
    pub(super) fn returned(&mut self, exchanged: &mut Exchanged, now: Instant) {
        self.ready.append(&mut exchanged.unwritten);
        if !exchanged.refused.is_empty() {
            self.refused.append(&mut exchanged.refused);
            self.refused_at = now;
        }
        self.locked.extend(exchanged.locked.drain(..));
    }

    /// Makes refused outcomes ready again, if it is time.
    pub(super) fn tick(&mut self, now: Instant) {
        if now >= self.refused_at + REFUSED_AGAIN {
            self.ready.append(&mut self.refused);
        }
    }

    /// Returns when the next try of locked outcomes may begin.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let waits = self.trying.is_none() && !self.locked.is_empty();
        waits.then_some(self.not_before)
    }

    /// Begins a try, if it is time: removes the outcomes that change the rows of the first one.
    pub(super) fn next_tried(&mut self, now: Instant) -> Option<Vec<Outcome>> {
        if self.next_try().is_none_or(|at| now < at) {
            return None;
        }
        let first = self.locked.pop_front()?;
        let rows: HashSet<Uuid> = touched(&first).collect();
        let mut touching = vec![first];
        let mut rest: Vec<Outcome> = self.locked.drain(..).collect();
        touching.append(&mut take_touching(&mut rest, &rows));
        let outcomes = take_message(&mut touching, MOST_TRIED, Outcome::bytes);
        self.locked.extend(rest.into_iter().chain(touching));
        self.trying = Some(Trying {
            claims: outcomes.iter().map(|one| (one.id, one.claim)).collect(),
            touches: outcomes.iter().flat_map(touched).collect(),
        });
        Some(outcomes)
    }

    /// Processes the result of a try.
    pub(super) fn tried(&mut self, tried: Tried, now: Instant) {
        self.trying = None;
        match tried {
            Tried::Written | Tried::Lost => {}
            Tried::StillLocked(outcomes) => {
                self.locked.extend(outcomes);
                self.not_before = now + PAUSE;
            }
            Tried::Failed(outcomes) => self.ready.extend(outcomes),
        }
    }

    /// Returns the claims of all outcomes, except those in a round trip.
    pub(super) fn claims(&self) -> impl Iterator<Item = (Uuid, Claim)> {
        let outcomes = self.ready.iter().chain(&self.refused).chain(&self.locked);
        let claims = outcomes.map(|outcome| (outcome.id, outcome.claim));
        let trying = self.trying.iter().flat_map(|trying| &trying.claims);
        claims.chain(trying.copied())
    }

    /// Returns whether outcomes wait for a lock.
    pub(super) fn has_locked(&self) -> bool {
        !self.locked.is_empty() || self.trying.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use conductor_postgres::Fault;

    use super::*;
    use crate::worker::example;

    fn kept(all: &[(u128, Option<u128>)]) -> (Delivery, Instant) {
        let now = Instant::now();
        let mut delivery = Delivery::new(now);
        for (id, parent) in all {
            let parent = parent.map(Uuid::from_u128);
            let end = End::Completed("null".to_owned());
            delivery.keep(Uuid::from_u128(*id), Claim::default(), parent, end);
        }
        (delivery, now)
    }

    fn ids(outcomes: &[Outcome]) -> Vec<u128> {
        outcomes.iter().map(|one| one.id.as_u128()).collect()
    }

    fn fault() -> Exchanged {
        Exchanged::of(example::request(), false).without(Vec::new(), Fault::Passing)
    }

    #[test]
    fn what_a_round_trip_has_not_written_is_sent_again() {
        let (mut delivery, now) = kept(&[(1, None), (2, None)]);
        let taken = delivery.take();
        assert_eq!((ids(&taken), delivery.ready().len()), (vec![1, 2], 0));
        assert_eq!(delivery.bytes(), 8);
        let mut failed = fault().without(taken, Fault::Passing);
        delivery.returned(&mut failed, now);
        assert_eq!(ids(&delivery.take()), [1, 2]);
        assert_eq!(delivery.bytes(), 0);
    }

    #[test]
    fn what_is_refused_in_every_form_is_sent_again_after_a_while() {
        let (mut delivery, now) = kept(&[(1, None)]);
        let mut failed = fault();
        failed.refused = delivery.take();
        delivery.returned(&mut failed, now);
        delivery.tick(now + REFUSED_AGAIN / 2);
        assert!(delivery.ready().is_empty());
        assert_eq!(delivery.claims().count(), 1);
        delivery.tick(now + REFUSED_AGAIN);
        assert_eq!(ids(delivery.ready()), [1]);
    }

    #[test]
    fn what_needs_a_locked_row_waits_and_others_do_not() {
        let (mut delivery, now) = kept(&[(1, Some(9)), (2, Some(9)), (3, None)]);
        let mut all = delivery.take();
        let mut failed = fault();
        failed.locked = vec![all.remove(0)];
        failed.unwritten = all;
        delivery.returned(&mut failed, now);
        // The second one has the same parent.
        delivery.set_aside();
        assert_eq!(ids(&delivery.take()), [3]);
        let tried = delivery.next_tried(now).unwrap();
        assert_eq!(ids(&tried), [1, 2]);
        assert!(delivery.next_tried(now).is_none());
        assert_eq!(delivery.claims().count(), 2);
        // What ends meanwhile queues behind them.
        delivery.keep(Uuid::from_u128(9), Claim::default(), None, End::Released);
        delivery.set_aside();
        assert!(delivery.ready().is_empty());

        delivery.tried(Tried::StillLocked(tried), now);
        assert!(delivery.next_tried(now).is_none());
        let tried = delivery.next_tried(now + PAUSE).unwrap();
        assert_eq!(ids(&tried), [9, 1, 2]);
        delivery.tried(Tried::Failed(tried), now + PAUSE);
        assert_eq!(ids(delivery.ready()), [9, 1, 2]);
        assert!(!delivery.has_locked());
    }
}
