//! When a worker makes round trips, and what it asks for.

use std::time::{Duration, Instant};

use conductor_postgres::store::{Claim, ClaimRequest, Claimed, LaneColumns, Seen, WindowColumns};
use uuid::Uuid;

use super::Machine;
use super::demand::Demand;
use super::running::MOST_BYTES;
use crate::worker::control::Phase;
use crate::worker::outcome::{End, Outcome};
use crate::worker::prefetch::Prefetch;
use crate::worker::protocol::Request;

/// The most round trips at once, and the amount of work from which a second one pays.
pub(in crate::worker) const MOST_TRIPS: usize = 2;
const WORTH_A_SECOND_TRIP: usize = 500;
/// How often a worker that holds executions that have not started asks whether its queue is paused.
const PAUSE_LOOK: Duration = Duration::from_millis(500);
/// The most claims in one statement.
const MOST_CLAIMS: usize = 2000;

impl Machine {
    /// Returns the next round trip, if there is a reason and room for one.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<Request> {
        if !self.link.is_open(now) {
            return None;
        }
        self.delivery.set_aside();
        let gives_back = self
            .claims
            .suspect()
            .is_some_and(|id| self.orchestrator == Some(id));
        let paused = !self.waiting.is_empty() && now >= self.next_pause_look;
        let ends_last = self.ends_last();
        let mut want = if ends_last { 0 } else { self.want() };
        if !self.has_reason(want, gives_back || paused, now) {
            return None;
        }
        let room = if want > 0 { self.room() } else { 0 };
        if want > 0 && room == 0 {
            // What is already here must be processed first.
            want = 0;
            if !self.has_reason(want, gives_back || paused, now) {
                return None;
            }
        }
        if paused {
            self.next_pause_look = now + PAUSE_LOOK;
        }
        let known = (gives_back && self.trips == 0).then(|| self.held());
        let lanes = self.lane_columns(want, now);
        let reports_slots = !lanes.lanes.is_empty();
        match known {
            Some(_) => self.claims.giving_back(want),
            None => self.claims.sent(want, reports_slots),
        }
        let mut claim = self.claim_request(want, room, paused, lanes);
        if want > 0 {
            claim.seen = self.scan.begin(now);
        }
        if ends_last {
            // Another trip that claims follows at once.
            self.demand.look_again();
        }
        self.trips += 1;
        Some(Request {
            outcomes: self.delivery.take(),
            claim,
            known,
            after_fault: self.link.has_failed(),
        })
    }

    /// Returns whether there is a reason for a trip that claims `want`, or for something else, and room for it.
    fn has_reason(&self, want: usize, or_else: bool, now: Instant) -> bool {
        let outcomes = self.delivery.ready().len();
        match self.trips {
            0 => {
                outcomes > 0
                    || want > 0 && self.demand.asks()
                    || or_else
                    || self.settle_at().is_some_and(|at| at <= now)
            }
            trips if trips < MOST_TRIPS && self.claims.lets_others_pass() => {
                outcomes >= WORTH_A_SECOND_TRIP
                    || self.demand == Demand::More && want >= WORTH_A_SECOND_TRIP
            }
            _ => false,
        }
    }

    /// Returns whether only results are to be written, they are the last that the worker has, and nothing more is
    /// known to be due. They are then written alone, and the claim follows at once, so that callers that wait for a
    /// result do not wait for the claim. Outcomes of executions that continue here later go with the claim, which
    /// finds out when.
    fn ends_last(&self) -> bool {
        let is_result = |outcome: &Outcome| {
            matches!(outcome.end, End::Completed(_)) && outcome.parent.is_none()
        };
        let outcomes = self.delivery.ready();
        !outcomes.is_empty()
            && outcomes.iter().all(is_result)
            && self.demand != Demand::More
            && self.running.is_empty()
            && self.waiting.is_empty()
            && self.trips == 0
    }

    /// Returns how many bytes a claim may return.
    fn room(&self) -> usize {
        let waiting: usize = self.waiting.all().map(Claimed::bytes).sum();
        MOST_BYTES.saturating_sub(waiting + self.delivery.bytes())
    }

    /// Returns what a trip reports of slots, if it is the only one.
    fn lane_columns(&mut self, want: usize, now: Instant) -> LaneColumns {
        if !self.claims.is_free() || self.orchestrator.is_none() {
            return LaneColumns::default();
        }
        let prefetch = |task: i32| self.limited.get(&task).map_or(1, Prefetch::most_held);
        self.waiting.lanes_mut().columns(want, prefetch, now)
    }

    /// Returns the request that accompanies outcomes. The windows are known to who has the clock.
    fn claim_request(
        &self,
        want: usize,
        bytes: usize,
        paused: bool,
        lanes: LaneColumns,
    ) -> ClaimRequest {
        let ahead = |prefetch: &Prefetch| i32::try_from(prefetch.most_held()).unwrap_or(i32::MAX);
        let (quick, ahead) = (self.limited.iter())
            .map(|(task, prefetch)| (*task, ahead(prefetch)))
            .unzip();
        ClaimRequest {
            orchestrator: self.orchestrator.unwrap_or_default(),
            queue: self.queue,
            tasks: self.tasks.clone(),
            windows: WindowColumns::default(),
            lanes,
            most: self.concurrency,
            quick,
            ahead,
            fence: self.claims.fence(),
            want,
            batched: if self.all_batched() {
                Vec::new()
            } else {
                self.waiting.batched().collect()
            },
            batch_want: self.batch_want(),
            bytes,
            seen: Seen::default(),
            idle: self.demand != Demand::More,
            paused,
        }
    }

    /// Returns the next outcomes of a locked execution to send, and their request.
    pub(super) fn next_try(&mut self, now: Instant) -> Option<(Vec<Outcome>, ClaimRequest)> {
        if !self.link.is_open(now) {
            return None;
        }
        let outcomes = self.delivery.next_tried(now)?;
        let request = self.claim_request(0, 0, false, LaneColumns::default());
        Some((outcomes, request.without_claim()))
    }

    /// Returns when to ask whether the queue is paused, if no trip is under way.
    pub(super) fn pause_look(&self) -> Option<Instant> {
        let looks = !self.waiting.is_empty() && self.trips == 0;
        looks.then(|| self.link.not_before(self.next_pause_look))
    }

    /// Returns when to give slots back, if no trip is under way.
    pub(super) fn settle_at(&self) -> Option<Instant> {
        let settles = self.trips == 0 && self.orchestrator.is_some();
        let at = self.waiting.lanes().unsettled().filter(|_| settles)?;
        Some(self.link.not_before(at))
    }

    /// Returns how many more executions the worker can hold. Only one claim at a time, because the answers of two could
    /// arrive in the wrong order.
    fn want(&self) -> usize {
        if self.orchestrator.is_none()
            || !self.claims.is_free()
            || self.taken_back > 0
            || self.phase != Phase::Working
        {
            return 0;
        }
        let batch_want = self.batch_want();
        if self.all_batched() {
            return batch_want;
        }
        let held = self.running.len() + self.waiting.singles();
        let want = self
            .prefetch
            .most_held()
            .saturating_sub(held)
            .min(MOST_CLAIMS);
        if self.waiting.batched().next().is_some() {
            // Any of them may belong to a batch, which needs a free slot.
            want.min(batch_want)
        } else {
            want
        }
    }

    /// Returns how many batch items have room in the free slots.
    fn batch_want(&self) -> usize {
        let free = self.concurrency.saturating_sub(self.running.len());
        self.waiting.batch_room(free).min(MOST_CLAIMS)
    }

    fn all_batched(&self) -> bool {
        self.tasks.len() == self.waiting.batched().count()
    }

    /// Returns all claims that the worker knows as its own. Not just executions: one that was written as suspended may
    /// have been claimed again, in the trip whose answer is missing.
    fn held(&self) -> Vec<(Uuid, Claim)> {
        let running = self.running.values().flat_map(|running| &running.members);
        let running = running.map(|member| (member.id, member.claim));
        let waiting = self.waiting.all();
        let waiting = waiting.map(|claimed| (claimed.id, claimed.claim));
        let all = running.chain(waiting).chain(self.delivery.claims());
        all.collect()
    }
}
