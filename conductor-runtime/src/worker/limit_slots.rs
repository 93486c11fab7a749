use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor_postgres::store::{Claimed, LaneColumns, Slots};
use uuid::Uuid;

/// How long free slots are kept for the next claims while much is due, and how often the worker then asks for its
/// number of slots, because a limit may have changed.
const KEEP: Duration = Duration::from_millis(200);
const ASK_FOR_ALL: Duration = Duration::from_secs(1);
/// When slots are offered again that could not be given back because their lane was locked.
const AGAIN: Duration = Duration::from_millis(20);
/// From this many executions per slot, not every claim has to examine a lane; the part of a claim that it must have
/// room for, because a claim is for many lanes; and how often it is examined nevertheless, because more slots may
/// have become free.
const QUICK: usize = 500;
const PART: usize = 4;
const LOOK: Duration = Duration::from_millis(500);

/// The slots that limits grant this worker, by lane, and the executions that wait for them.
#[derive(Debug, Default)]
pub(super) struct LimitSlots {
    lanes: HashMap<i32, Lane>,
    /// How many executions wait, in all lanes.
    blocked: usize,
    /// When the database should be informed that fewer slots are in use than it knows.
    unsettled: Option<Instant>,
    /// Whether more is due than was claimed.
    deep: bool,
    asked_for_all: Option<Instant>,
}

/// The slots that a limit grants this worker for one key.
#[derive(Debug, Default)]
struct Lane {
    task_id: i32,
    /// The limit, and the key as the database stores it.
    of: Option<(i32, Arc<str>)>,
    /// How many executions may run at once here.
    slots: usize,
    running: usize,
    /// How many are running or waiting here.
    claimed: usize,
    blocked: VecDeque<Claimed>,
    /// When something was last claimed here.
    claimed_at: Option<Instant>,
    /// Whether the database was asked not to examine this lane, and when it last did.
    roomy: bool,
    looked_at: Option<Instant>,
}

impl Lane {
    /// Returns until when free slots are kept.
    fn kept_until(&self) -> Option<Instant> {
        self.claimed_at.map(|at| at + KEEP)
    }

    fn is_full(&self) -> bool {
        self.running >= self.slots
    }

    /// Returns whether the slots suffice for its part of a claim of `want`, at `ahead` executions per slot.
    fn has_room(&self, want: usize, ahead: usize, now: Instant) -> bool {
        ahead >= QUICK
            && self.slots > 0
            && self.slots * ahead >= self.claimed + want / PART
            && self.looked_at.is_some_and(|at| now < at + LOOK)
    }
}

impl LimitSlots {
    /// Notes an execution that was claimed in these lanes.
    pub(super) fn claimed(&mut self, claimed: &Claimed, now: Instant) {
        for lane in &claimed.lanes {
            let lane = self.lanes.entry(*lane).or_default();
            lane.task_id = claimed.task_id;
            lane.claimed += 1;
            lane.claimed_at = Some(now);
            if !lane.roomy {
                lane.looked_at = Some(now);
            }
        }
    }

    /// Returns the first of these lanes without a free slot.
    pub(super) fn full(&self, lanes: &[i32]) -> Option<i32> {
        let is_full = |lane: &&i32| self.lanes.get(*lane).is_some_and(Lane::is_full);
        lanes.iter().find(is_full).copied()
    }

    /// Notes that an execution starts in these lanes.
    pub(super) fn start(&mut self, lanes: &[i32]) {
        for lane in lanes {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.running += 1;
            }
        }
    }

    /// Makes an execution wait for a slot of a lane. Its turn in its other lanes goes to the next one there.
    pub(super) fn block(&mut self, full: i32, claimed: Claimed, ready: &mut VecDeque<Claimed>) {
        for other in &claimed.lanes {
            if let Some(lane) = self.lanes.get_mut(other)
                && !lane.is_full()
                && let Some(next) = lane.blocked.pop_front()
            {
                self.blocked -= 1;
                ready.push_front(next);
            }
        }
        if let Some(lane) = self.lanes.get_mut(&full) {
            lane.blocked.push_back(claimed);
            self.blocked += 1;
        }
    }

    /// Notes that an execution that ran in these lanes has ended; the next ones become ready.
    pub(super) fn ended(&mut self, lanes: &[i32], ready: &mut VecDeque<Claimed>, now: Instant) {
        for lane in lanes {
            let Some(lane) = self.lanes.get_mut(lane) else {
                continue;
            };
            lane.running = lane.running.saturating_sub(1);
            if let Some(next) = lane.blocked.pop_front() {
                self.blocked -= 1;
                ready.push_front(next);
            }
        }
        self.left(lanes, now);
    }

    /// Notes that an execution that was claimed in these lanes is gone.
    pub(super) fn left(&mut self, lanes: &[i32], now: Instant) {
        for lane in lanes {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.claimed = lane.claimed.saturating_sub(1);
                let at = lane.kept_until().filter(|_| self.deep);
                self.unsettled = earlier(self.unsettled, at.unwrap_or(now));
            }
        }
    }

    /// Sets whether more is due than was claimed. Only then are free slots kept.
    pub(super) fn set_deep(&mut self, deep: bool, now: Instant) {
        if self.deep && !deep && self.unsettled.is_some() {
            self.unsettled = Some(now);
        }
        self.deep = deep;
    }

    /// Removes everything that waits for a slot.
    pub(super) fn drain(&mut self) -> Vec<Claimed> {
        let lanes = self.lanes.values_mut();
        let all = lanes.flat_map(|lane| lane.blocked.drain(..)).collect();
        self.blocked = 0;
        all
    }

    /// Removes what has waited this long for a slot, with everything that waits after it.
    pub(super) fn drain_old(&mut self, long: Duration, now: Instant) -> Vec<Claimed> {
        let mut all = Vec::new();
        for lane in self.lanes.values_mut() {
            let oldest = lane.blocked.front();
            if oldest.is_some_and(|claimed| now >= claimed.since + long) {
                all.extend(lane.blocked.drain(..));
            }
        }
        self.blocked -= all.len();
        all
    }

    /// Removes the execution with this id.
    pub(super) fn remove(&mut self, id: Uuid) -> Option<Claimed> {
        let mut lanes = self.lanes.values_mut();
        let found = lanes.find_map(|lane| {
            let at = lane.blocked.iter().position(|claimed| claimed.id == id)?;
            lane.blocked.remove(at)
        });
        self.blocked -= usize::from(found.is_some());
        found
    }

    /// Sets the slots that the database grants. A lane in the request that it no longer knows belonged to a removed
    /// limit. What may start now becomes ready.
    pub(super) fn granted(
        &mut self,
        asked: &[i32],
        told: Vec<Slots>,
        ready: &mut VecDeque<Claimed>,
        now: Instant,
    ) {
        let known: HashSet<i32> = told.iter().map(|told| told.lane).collect();
        for Slots { lane, slots, of } in told {
            let lane = self.lanes.entry(lane).or_default();
            lane.slots = usize::try_from(slots).unwrap_or(0);
            lane.of = of.or(lane.of.take());
            // There may be more free slots than before.
            let free = lane.slots.saturating_sub(lane.running);
            let blocked = lane.blocked.len().min(free);
            self.blocked -= blocked;
            for next in lane.blocked.drain(..blocked).rev() {
                ready.push_front(next);
            }
            // The slots are kept, or the lane was locked when they were offered back.
            if lane.slots > lane.claimed {
                let at = lane.kept_until().filter(|_| self.deep);
                let at = at.unwrap_or(now + AGAIN);
                self.unsettled = earlier(self.unsettled, at);
            }
        }
        for gone in asked.iter().filter(|lane| !known.contains(lane)) {
            if let Some(lane) = self.lanes.remove(gone) {
                self.blocked -= lane.blocked.len();
                ready.extend(lane.blocked);
            }
        }
        self.lanes
            .retain(|_, lane| lane.claimed > 0 || lane.slots > 0);
    }

    /// Returns what the database receives with a claim of `want`. `ahead` tells how many executions of a task one
    /// slot can run quickly enough.
    pub(super) fn columns(
        &mut self,
        want: usize,
        ahead: impl Fn(i32) -> usize,
        now: Instant,
    ) -> LaneColumns {
        self.unsettled = None;
        let asked = self.asked_for_all.filter(|_| self.deep);
        let all = asked.is_none_or(|at| now >= at + ASK_FOR_ALL);
        if all {
            self.asked_for_all = Some(now);
        }
        let mut columns = LaneColumns::default();
        for (id, lane) in &mut self.lanes {
            columns.lanes.push(*id);
            columns
                .used
                .push(i32::try_from(lane.claimed).unwrap_or(i32::MAX));
            let kept_until = lane.kept_until().filter(|until| now < *until);
            match kept_until {
                _ if all => columns.back.push(*id),
                _ if lane.slots <= lane.claimed => {}
                Some(until) => self.unsettled = earlier(self.unsettled, until),
                None => columns.back.push(*id),
            }
            lane.roomy = lane.of.is_some() && lane.has_room(want, ahead(lane.task_id), now);
            if let Some((limit, key)) = lane.of.as_ref().filter(|_| lane.roomy) {
                columns.roomy.push(*id);
                columns.roomy_limits.push(*limit);
                columns.roomy_keys.push(key.clone());
            }
        }
        columns
    }

    /// Returns when the database should be informed that slots are free.
    pub(super) fn unsettled(&self) -> Option<Instant> {
        self.unsettled
    }

    /// Must be called if a request may not have arrived and its result is unknown: there may be fewer slots than
    /// before.
    pub(super) fn unsettle(&mut self, now: Instant) {
        self.unsettled = (!self.lanes.is_empty()).then_some(now);
        self.asked_for_all = None;
        for lane in self.lanes.values_mut() {
            lane.looked_at = None;
        }
    }

    /// Must be called under a new orchestrator id: the slots ended with the old one.
    pub(super) fn forget(&mut self) {
        self.lanes.clear();
        self.unsettled = None;
    }

    /// Returns what waits for a slot.
    pub(super) fn blocked(&self) -> impl Iterator<Item = &Claimed> {
        self.lanes.values().flat_map(|lane| &lane.blocked)
    }

    /// Returns how many wait for a slot.
    pub(super) fn count_blocked(&self) -> usize {
        self.blocked
    }
}

fn earlier(time: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(time.map_or(other, |time| time.min(other)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::worker::example;

    const TASK: i32 = 1;

    fn claimed(lanes: &mut LimitSlots, now: Instant) {
        lanes.claimed(&example::claimed(1, TASK, &[7]), now);
    }

    fn lanes() -> (LimitSlots, Instant) {
        let now = Instant::now();
        let mut lanes = LimitSlots::default();
        lanes.set_deep(true, now);
        claimed(&mut lanes, now);
        (lanes, now)
    }

    fn told(slots: i32) -> Vec<Slots> {
        let of = Some((3, "acme".into()));
        vec![Slots { lane: 7, slots, of }]
    }

    #[test]
    fn only_a_known_lane_of_quick_executions_has_room() {
        let (mut lanes, now) = lanes();
        assert_eq!(lanes.columns(1, |_| QUICK, now).roomy, [] as [i32; 0]);
        lanes.granted(&[], told(2), &mut VecDeque::new(), now);
        let most = PART * (2 * QUICK - 1);
        let columns = lanes.columns(most, |task| if task == TASK { QUICK } else { 0 }, now);
        assert_eq!((columns.roomy, columns.roomy_limits), (vec![7], vec![3]));
        assert_eq!(&*columns.roomy_keys[0], "acme");
        // One slot is already in use.
        assert!(lanes.columns(most + PART, |_| QUICK, now).roomy.is_empty());
        assert!(lanes.columns(1, |_| QUICK - 1, now).roomy.is_empty());
    }

    #[test]
    fn a_lane_is_looked_at_again_after_a_while_or_a_lost_answer() {
        let (mut lanes, now) = lanes();
        lanes.granted(&[], told(1), &mut VecDeque::new(), now);
        let looked =
            |lanes: &mut LimitSlots, now| lanes.columns(1, |_| QUICK, now).roomy.is_empty();
        assert!(!looked(&mut lanes, now));
        lanes.unsettle(now);
        assert!(looked(&mut lanes, now));
        claimed(&mut lanes, now);
        assert!(!looked(&mut lanes, now));
        // Executions from a claim that did not examine the lane do not delay the next examination.
        claimed(&mut lanes, now + LOOK / 2);
        assert!(looked(&mut lanes, now + LOOK));
    }
}
