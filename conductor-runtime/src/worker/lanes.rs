use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::fetch::{Claimed, LaneColumns, Slots};

/// How long slots are kept for what the next claims bring, where much is due; and how often the worker
/// asks then how many it has: a limit may have been changed.
const KEEP: Duration = Duration::from_millis(200);
const ASK_FOR_ALL: Duration = Duration::from_secs(1);
/// When to offer slots again that could not be given back, as somebody else had their lane locked.
const AGAIN: Duration = Duration::from_millis(20);
/// From how many executions per slot a lane need not be looked at by each claim, what part of a claim there
/// must be room for, as it is of many lanes, and how often it is looked at even so: there may be more slots
/// to be had.
const QUICK: usize = 500;
const PART: usize = 4;
const LOOK: Duration = Duration::from_millis(500);

/// What limits allow this worker, by lane, and what waits for a slot there.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<i32, Lane>,
    /// How many wait, in all lanes.
    blocked: usize,
    /// When the database should hear that fewer slots are in use than it knows.
    unsettled: Option<Instant>,
    /// More is due than was claimed.
    deep: bool,
    asked_for_all: Option<Instant>,
}

/// What a limit allows this worker for one key.
#[derive(Debug, Default)]
struct Lane {
    task_id: i32,
    /// The limit, and the key as the database has it.
    of: Option<(i32, Arc<str>)>,
    /// How many may run at once here.
    slots: usize,
    running: usize,
    /// Running or waiting here.
    claimed: usize,
    blocked: VecDeque<Claimed>,
    /// When something was last claimed here.
    claimed_at: Option<Instant>,
    /// The database was told that it need not look here; when it last did.
    roomy: bool,
    looked_at: Option<Instant>,
}

impl Lane {
    /// Until when slots that are free are kept.
    fn kept_until(&self) -> Option<Instant> {
        self.claimed_at.map(|at| at + KEEP)
    }

    fn is_full(&self) -> bool {
        self.running >= self.slots
    }

    /// Whether the slots do for its part of a claim of so many, at `ahead` a slot.
    fn has_room(&self, want: usize, ahead: usize) -> bool {
        ahead >= QUICK
            && self.slots > 0
            && self.slots * ahead >= self.claimed + want / PART
            && self.looked_at.is_some_and(|at| at.elapsed() < LOOK)
    }
}

impl Lanes {
    /// One was claimed that needs slots here.
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

    /// The first of these that has no free slot.
    pub(super) fn full(&self, lanes: &[i32]) -> Option<i32> {
        let is_full = |lane: &&i32| self.lanes.get(*lane).is_some_and(Lane::is_full);
        lanes.iter().find(is_full).copied()
    }

    /// One starts in these lanes.
    pub(super) fn start(&mut self, lanes: &[i32]) {
        for lane in lanes {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.running += 1;
            }
        }
    }

    /// Waits for a slot of a lane. The turn that it had in its other lanes goes to the next there.
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

    /// One that ran in these lanes has ended; the next ones are ready.
    pub(super) fn ended(&mut self, lanes: &[i32], ready: &mut VecDeque<Claimed>) {
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
        self.left(lanes);
    }

    /// One that was claimed in these lanes is gone from here.
    pub(super) fn left(&mut self, lanes: &[i32]) {
        for lane in lanes {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.claimed = lane.claimed.saturating_sub(1);
                let at = lane.kept_until().filter(|_| self.deep);
                self.unsettled = earlier(self.unsettled, at.unwrap_or_else(Instant::now));
            }
        }
    }

    /// Whether more is due than was claimed: only then slots are kept.
    pub(super) fn set_deep(&mut self, deep: bool) {
        if self.deep && !deep && self.unsettled.is_some() {
            self.unsettled = Some(Instant::now());
        }
        self.deep = deep;
    }

    /// All that waits for a slot.
    pub(super) fn drain(&mut self) -> Vec<Claimed> {
        let lanes = self.lanes.values_mut();
        let all = lanes.flat_map(|lane| lane.blocked.drain(..)).collect();
        self.blocked = 0;
        all
    }

    /// What has waited for a slot for so long, with all that waits behind it.
    pub(super) fn drain_old(&mut self, long: Duration) -> Vec<Claimed> {
        let mut all = Vec::new();
        for lane in self.lanes.values_mut() {
            let oldest = lane.blocked.front();
            if oldest.is_some_and(|claimed| claimed.since.elapsed() >= long) {
                all.extend(lane.blocked.drain(..));
            }
        }
        self.blocked -= all.len();
        all
    }

    /// Takes out the one with this id.
    pub(super) fn remove(&mut self, id: Uuid) -> Option<Claimed> {
        let mut lanes = self.lanes.values_mut();
        let found = lanes.find_map(|lane| {
            let at = lane.blocked.iter().position(|claimed| claimed.id == id)?;
            lane.blocked.remove(at)
        });
        self.blocked -= usize::from(found.is_some());
        found
    }

    /// The slots that the database says are ours. A lane that it was asked for and no longer knows
    /// belonged to a limit that is gone. What may start now is ready.
    pub(super) fn granted(
        &mut self,
        asked: &[i32],
        told: Vec<Slots>,
        ready: &mut VecDeque<Claimed>,
    ) {
        let known: HashSet<i32> = told.iter().map(|told| told.lane).collect();
        for Slots { lane, slots, of } in told {
            let lane = self.lanes.entry(lane).or_default();
            lane.slots = usize::try_from(slots).unwrap_or(0);
            lane.of = of.or(lane.of.take());
            // More slots than before may be free now.
            let free = lane.slots.saturating_sub(lane.running);
            let blocked = lane.blocked.len().min(free);
            self.blocked -= blocked;
            for next in lane.blocked.drain(..blocked).rev() {
                ready.push_front(next);
            }
            // Kept, or somebody else had the lane locked when we wanted to give them back.
            if lane.slots > lane.claimed {
                let at = lane.kept_until().filter(|_| self.deep);
                let at = at.unwrap_or_else(|| Instant::now() + AGAIN);
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

    /// What the database is told with a claim of `want`, where `ahead` executions of a task are quick
    /// enough for one slot.
    pub(super) fn columns(&mut self, want: usize, ahead: impl Fn(i32) -> usize) -> LaneColumns {
        self.unsettled = None;
        let now = Instant::now();
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
            lane.roomy = lane.of.is_some() && lane.has_room(want, ahead(lane.task_id));
            if let Some((limit, key)) = lane.of.as_ref().filter(|_| lane.roomy) {
                columns.roomy.push(*id);
                columns.roomy_limits.push(*limit);
                columns.roomy_keys.push(key.clone());
            }
        }
        columns
    }

    /// When the database should hear that slots are free.
    pub(super) fn unsettled(&self) -> Option<Instant> {
        self.unsettled
    }

    /// What was said of the lanes may not have been heard, and what came of it is not known: there may be
    /// fewer slots than before.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = (!self.lanes.is_empty()).then(Instant::now);
        self.asked_for_all = None;
        for lane in self.lanes.values_mut() {
            lane.looked_at = None;
        }
    }

    /// Under another identity: the slots are gone with the old one.
    pub(super) fn forget(&mut self) {
        self.lanes.clear();
        self.unsettled = None;
    }

    /// What waits for a slot.
    pub(super) fn blocked(&self) -> impl Iterator<Item = &Claimed> {
        self.lanes.values().flat_map(|lane| &lane.blocked)
    }

    /// How many wait for a slot.
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

    const TASK: i32 = 1;

    fn lanes() -> Lanes {
        let mut lanes = Lanes::default();
        lanes.set_deep(true);
        lanes.claimed(&Claimed::example(TASK, &[7]), Instant::now());
        lanes
    }

    fn told(slots: i32) -> Vec<Slots> {
        let of = Some((3, "acme".into()));
        vec![Slots { lane: 7, slots, of }]
    }

    #[test]
    fn only_a_known_lane_of_quick_executions_has_room() {
        let mut lanes = lanes();
        assert_eq!(lanes.columns(1, |_| QUICK).roomy, [] as [i32; 0]);
        lanes.granted(&[], told(2), &mut VecDeque::new());
        let most = PART * (2 * QUICK - 1);
        let columns = lanes.columns(most, |task| if task == TASK { QUICK } else { 0 });
        assert_eq!((columns.roomy, columns.roomy_limits), (vec![7], vec![3]));
        assert_eq!(&*columns.roomy_keys[0], "acme");
        // One is there already.
        assert!(lanes.columns(most + PART, |_| QUICK).roomy.is_empty());
        assert!(lanes.columns(1, |_| QUICK - 1).roomy.is_empty());
    }

    #[test]
    fn a_lane_is_looked_at_again_after_a_while_or_a_lost_answer() {
        let mut lanes = lanes();
        lanes.granted(&[], told(1), &mut VecDeque::new());
        let looked = |lanes: &mut Lanes| lanes.columns(1, |_| QUICK).roomy.is_empty();
        assert!(!looked(&mut lanes));
        lanes.unsettle();
        assert!(looked(&mut lanes));
        lanes.claimed(&Claimed::example(TASK, &[7]), Instant::now());
        assert!(!looked(&mut lanes));
        // What comes without a look does not put the next one off.
        let long_ago = Instant::now().checked_sub(LOOK);
        lanes.lanes.get_mut(&7).unwrap().looked_at = long_ago;
        lanes.claimed(&Claimed::example(TASK, &[7]), Instant::now());
        assert!(looked(&mut lanes));
    }
}
