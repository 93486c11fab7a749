//! When a worker makes round trips to the database, and how it processes their results.

use std::time::{Duration, Instant};

use conductor_postgres::{Fault, Session, take_message};
use tokio::task::JoinError;
use uuid::Uuid;

use super::{MOST_BYTES, POLL, Pipeline};
use crate::worker::claim::Claim;
use crate::worker::control::Phase;
use crate::worker::fetch::{Ask, Claimed, LaneColumns, Seen};
use crate::worker::flush::{Returned, Trip, round_trip};
use crate::worker::outcome::{End, Outcome};
use crate::worker::pace::Pace;

/// The pauses before further queries after going idle: a concurrent invoke may not have seen the
/// idle flag.
const LOOKS_AGAIN: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
];
/// The pauses between tries while the database is unavailable.
const PATIENCE: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// The most round trips at once, and the amount of work from which a second one pays.
const MOST_TRIPS: usize = 2;
const WORTH_A_SECOND_TRIP: usize = 500;
/// How often a worker that holds executions that have not started checks whether its queue is
/// paused.
const PAUSE_LOOK: Duration = Duration::from_millis(500);
/// How often a scan begins at the start, and how soon after the last such scan if a notified worker
/// found nothing: executions that were given back or committed late lie before the position where
/// other scans begin.
const WHOLE_LOOK: Duration = Duration::from_secs(1);
const WHOLE_LOOK_WOKEN: Duration = Duration::from_millis(250);
/// The most claims in one statement.
const MOST_CLAIMS: usize = 2000;

impl Pipeline {
    /// Starts a round trip, if there is a reason and room for one.
    pub(super) fn send(&mut self) {
        if Instant::now() < self.patient_until {
            return;
        }
        self.locked.attract(&mut self.outcomes);
        let ends_last = self.ends_last();
        let mut want = if ends_last { 0 } else { self.want() };
        let disown = self.suspect.is_some() && self.suspect == self.orchestrator;
        let paused = !self.waiting.is_empty() && Instant::now() >= self.next_pause_look;
        if !self.has_reason(want, disown || paused) {
            return;
        }
        let room = if want > 0 { self.room() } else { 0 };
        if want > 0 && room == 0 {
            // What is already here must be processed first.
            want = 0;
            if !self.has_reason(want, disown || paused) {
                return;
            }
        }
        let known = (disown && self.trips.is_empty()).then(|| self.held());
        self.disowning = known.is_some();
        if paused {
            self.next_pause_look = Instant::now() + PAUSE_LOOK;
        }
        if self.disowning {
            self.suspect = None;
            self.fence += 1;
        }
        let mut lanes = LaneColumns::default();
        if self.asked == 0 && !self.settling && self.orchestrator.is_some() {
            let pace = |task: i32| self.limited.get(&task).map_or(1, Pace::most_held);
            lanes = self.waiting.lanes_mut().columns(want, pace);
        }
        self.settling |= !lanes.lanes.is_empty();
        let mut ask = self.ask(want, room, paused, lanes);
        if want > 0 {
            if self.whole_look_at <= Instant::now() {
                self.last_whole_look = Instant::now();
                self.whole_look_at = self.last_whole_look + WHOLE_LOOK;
                self.seen = Seen::default();
            }
            ask.seen = std::mem::take(&mut self.seen);
        }
        if ends_last {
            // Another trip that claims follows at once.
            self.idle = false;
        }
        self.asked += want;
        let outcomes = take_message(&mut self.outcomes, usize::MAX, Outcome::bytes);
        self.trips.spawn(round_trip(Trip {
            conductor: self.conductor.clone(),
            spare: self.spare.pop(),
            outcomes,
            ask,
            known,
            after_fault: self.faults > 0,
            again: false,
            control: self.control.clone(),
        }));
    }

    /// Returns whether there is a reason for a trip that claims `want`, or for something else, and
    /// room for it.
    fn has_reason(&self, want: usize, or_else: bool) -> bool {
        match self.trips.len() {
            0 => {
                !self.outcomes.is_empty()
                    || want > 0 && (self.more || !self.idle)
                    || or_else
                    || self.settle_at().is_some_and(|at| at <= Instant::now())
            }
            trips if trips < MOST_TRIPS && self.suspect.is_none() && !self.disowning => {
                self.outcomes.len() >= WORTH_A_SECOND_TRIP
                    || self.more && want >= WORTH_A_SECOND_TRIP
            }
            _ => false,
        }
    }

    /// Returns whether only results are to be written, they are the last that the worker has, and
    /// nothing more is known to be due. They are then written alone, and the claim follows at once,
    /// so that callers that wait for a result do not wait for the claim. Outcomes of executions
    /// that continue here later go with the claim, which finds out when.
    fn ends_last(&self) -> bool {
        let is_result = |outcome: &Outcome| {
            matches!(outcome.end, End::Completed(_)) && outcome.parent.is_none()
        };
        !self.outcomes.is_empty()
            && self.outcomes.iter().all(is_result)
            && !self.more
            && self.running.is_empty()
            && self.waiting.is_empty()
            && self.trips.is_empty()
    }

    /// Returns how many bytes a claim may return.
    fn room(&self) -> usize {
        let waiting: usize = self.waiting.all().map(Claimed::bytes).sum();
        MOST_BYTES.saturating_sub(waiting + self.unwritten.bytes())
    }

    /// Builds the request that accompanies the outcomes.
    fn ask(&self, want: usize, bytes: usize, paused: bool, lanes: LaneColumns) -> Ask {
        let ahead = |pace: &Pace| i32::try_from(pace.most_held()).unwrap_or(i32::MAX);
        let (quick, ahead) = (self.limited.iter())
            .map(|(task, pace)| (*task, ahead(pace)))
            .unzip();
        Ask {
            orchestrator: self.orchestrator.unwrap_or_default(),
            queue: self.queue_id,
            tasks: self.tasks.keys().copied().collect(),
            windows: self.windows.columns(self.surroundings.durable.clock.now()),
            lanes,
            most: self.concurrency,
            quick,
            ahead,
            fence: self.fence,
            want,
            batched: if self.all_batched() {
                Vec::new()
            } else {
                self.waiting.batched().collect()
            },
            batch_want: self.batch_want(),
            bytes,
            seen: Seen::default(),
            idle: !self.more,
            paused,
        }
    }

    /// Sends outcomes that wait for a lock.
    pub(super) fn send_locked(&mut self) {
        if Instant::now() >= self.patient_until && !self.locked.is_empty() {
            let ask = self
                .ask(0, 0, false, LaneColumns::default())
                .without_claim();
            self.locked.send(&self.database, ask);
        }
    }

    /// Returns when to check whether the queue is paused, if no trip is in progress.
    pub(super) fn pause_look(&self) -> Option<Instant> {
        let look = !self.waiting.is_empty() && self.trips.is_empty();
        look.then(|| self.next_pause_look.max(self.patient_until))
    }

    /// Returns when to give slots back, if no trip is in progress.
    pub(super) fn settle_at(&self) -> Option<Instant> {
        let settle = self.trips.is_empty() && self.orchestrator.is_some();
        let at = self.waiting.lanes().unsettled().filter(|_| settle)?;
        Some(at.max(self.patient_until))
    }

    /// Returns how many more executions the worker can hold. Only one claim at a time, because the
    /// answers of two could arrive in the wrong order.
    fn want(&self) -> usize {
        if self.orchestrator.is_none()
            || self.asked > 0
            || self.settling
            || self.taken_back > 0
            || self.control.borrow().phase != Phase::Working
        {
            return 0;
        }
        let batch_want = self.batch_want();
        if self.all_batched() {
            return batch_want;
        }
        let held = self.running.len() + self.waiting.singles();
        let want = self.pace.most_held().saturating_sub(held).min(MOST_CLAIMS);
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

    /// Returns all claims that the worker knows as its own. Not just executions: one that was
    /// written as suspended may have been claimed again, in the trip whose answer is missing.
    fn held(&self) -> Vec<(Uuid, Claim)> {
        let running = self.running.values().flat_map(|running| &running.members);
        let running = running.map(|member| (member.id, member.claim));
        let waiting = self.waiting.all();
        let waiting = waiting.map(|claimed| (claimed.id, claimed.claim));
        let outcomes = self.outcomes.iter().chain(&self.refused);
        let outcomes = outcomes.map(|outcome| (outcome.id, outcome.claim));
        let all = running.chain(waiting).chain(outcomes);
        all.chain(self.locked.claims()).collect()
    }

    pub(super) fn received(&mut self, returned: Result<Returned, JoinError>) {
        let returned = match returned {
            Ok(returned) => returned,
            Err(error) => {
                // The outcomes are lost here; the executions are recovered after the lease.
                tracing::error!(%error, "a round trip panicked");
                self.suspect = self.orchestrator.or(self.suspect);
                self.disowning = false;
                self.asked = 0;
                self.settling = false;
                self.waiting.lanes_mut().unsettle();
                return;
            }
        };
        // A session is kept only if other parts of this process do not need it.
        let keeps = |session: &Session| session.is_young() && self.database.has_plenty();
        if self.spare.len() < MOST_TRIPS {
            self.spare.extend(returned.session.filter(keeps));
        }
        self.asked = self.asked.saturating_sub(returned.ask.want);
        let current = self.orchestrator == Some(returned.ask.orchestrator);
        let told = !returned.ask.lanes.lanes.is_empty();
        if told {
            self.settling = false;
        }
        if told && returned.fault.is_some() && current {
            self.waiting.lanes_mut().unsettle();
        }
        // Without a current id, the suspect one may be held again.
        if returned.suspect && (current || self.orchestrator.is_none()) {
            self.suspect = Some(returned.ask.orchestrator);
        }
        self.disowning = false;
        self.outcomes.extend(returned.unwritten);
        if !returned.refused.is_empty() {
            self.refused.extend(returned.refused);
            self.refused_at = Instant::now();
        }
        self.locked.extend(returned.locked);
        match returned.fault {
            None => self.faults = 0,
            Some(Fault::LeaseLost) => {
                // Nothing can be claimed until the orchestrator has a new id.
                self.over = Some(returned.ask.orchestrator);
                self.lease_lost.notify_one();
            }
            Some(Fault::Passing | Fault::Refused) => {
                let patience = PATIENCE[self.faults.min(PATIENCE.len() - 1)];
                self.faults += 1;
                self.more = true;
                self.patient_until = Instant::now() + patience;
                self.next_look = self.patient_until;
                return;
            }
        }
        let got = returned.claimed.len();
        let bytes: usize = returned.claimed.iter().map(Claimed::bytes).sum();
        if current {
            self.waiting.extend(returned.claimed);
            if told || !returned.slots.is_empty() {
                (self.waiting).granted(&returned.ask.lanes.back, returned.slots);
            }
        } else {
            self.release(returned.claimed);
        }
        if returned.paused {
            self.release_waiting();
        }
        if returned.ask.want == 0 {
            return;
        }
        let cancelled = std::mem::take(&mut self.cancelled_early);
        if !current {
            return;
        }
        self.seen = returned.seen;
        let woken = std::mem::take(&mut self.woken);
        if woken && got == 0 {
            let soon = self.last_whole_look + WHOLE_LOOK_WOKEN;
            self.whole_look_at = self.whole_look_at.min(soon);
        }
        for id in cancelled {
            self.cancel(id);
        }
        // If the answer was large, what is left may not have fit into it.
        self.more = got == returned.ask.want || bytes > returned.ask.bytes / 2;
        self.waiting.lanes_mut().set_deep(self.more);
        if got > 0 {
            self.idle = false;
            self.looks = 0;
            return;
        }
        if returned.ask.idle {
            self.idle = true;
            self.spare.clear();
            let look = LOOKS_AGAIN.get(self.looks).copied().unwrap_or(POLL);
            self.looks += 1;
            let due = returned.next_due.unwrap_or(POLL);
            self.next_look = Instant::now() + look.min(due);
        }
    }
}
