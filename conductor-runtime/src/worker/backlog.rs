use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Instant;

use uuid::Uuid;

use super::fetch::Claimed;
use super::gathering::Gathering;
use crate::task::TaskDefinition;

/// What was claimed and waits for a handler: its turn, a slot of its lanes, its time, or others for
/// a batch.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// By task, for those that run in batches.
    gatherings: HashMap<i32, Gathering>,
    ready: VecDeque<Claimed>,
    /// By the time of the start that a rate allows; the number keeps the order.
    later: BTreeMap<(Instant, u64), Claimed>,
    number: u64,
    lanes: HashMap<i32, Lane>,
    /// How many wait for a slot, in all lanes.
    blocked: usize,
    /// Fewer slots are in use than the database knows.
    unsettled: bool,
}

/// What a limit allows this worker for one key.
#[derive(Debug, Default)]
struct Lane {
    /// How many may run at once here.
    slots: usize,
    running: usize,
    /// Running or waiting here.
    claimed: usize,
    blocked: VecDeque<Claimed>,
}

impl Lane {
    fn is_full(&self) -> bool {
        self.running >= self.slots
    }
}

/// What one handler is to run.
#[derive(Debug)]
pub(super) enum Turn {
    Single(Claimed),
    /// Of one task, in the order of their claims.
    Batch(Vec<Claimed>),
}

impl Backlog {
    pub(super) fn of(tasks: &HashMap<i32, &'static TaskDefinition>) -> Self {
        let gatherings = tasks.iter().filter_map(|(id, task)| {
            let batch = task.batch()?;
            Some((*id, Gathering::new(batch.max_size, batch.max_wait)))
        });
        Self {
            gatherings: gatherings.collect(),
            ..Self::default()
        }
    }

    /// Takes in what a claim has brought.
    pub(super) fn extend(&mut self, claimed: Vec<Claimed>) {
        let now = Instant::now();
        for claimed in claimed {
            for lane in &claimed.lanes {
                self.lanes.entry(*lane).or_default().claimed += 1;
            }
            if let Some(gathering) = self.gatherings.get_mut(&claimed.task_id) {
                gathering.add(now, claimed);
                continue;
            }
            match claimed.start_at {
                Some(at) if at > now => {
                    self.number += 1;
                    self.later.insert((at, self.number), claimed);
                }
                _ => self.ready.push_back(claimed),
            }
        }
    }

    /// What may start next; its lanes count it as running until it has [ended](Self::ended).
    /// A batch that is ready has waited longer than what came alone.
    pub(super) fn next(&mut self) -> Option<Turn> {
        self.next_batch()
            .map(Turn::Batch)
            .or_else(|| self.next_single().map(Turn::Single))
    }

    fn next_batch(&mut self) -> Option<Vec<Claimed>> {
        let now = Instant::now();
        let ready = self.gatherings.values_mut();
        let oldest = ready
            .filter(|gathering| gathering.is_ready(now))
            .min_by_key(|gathering| gathering.since())?;
        let batch = oldest.take();
        for lane in batch.iter().flat_map(|claimed| &claimed.lanes) {
            // Where another program limits the task: it does not know of the batch.
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.running += 1;
            }
        }
        Some(batch)
    }

    fn next_single(&mut self) -> Option<Claimed> {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > Instant::now() {
                break;
            }
            self.ready.push_front(entry.remove());
        }
        while let Some(claimed) = self.ready.pop_front() {
            let is_full = |lane: &&i32| self.lanes.get(*lane).is_some_and(Lane::is_full);
            match claimed.lanes.iter().find(is_full).copied() {
                None => {
                    for lane in &claimed.lanes {
                        if let Some(lane) = self.lanes.get_mut(lane) {
                            lane.running += 1;
                        }
                    }
                    return Some(claimed);
                }
                Some(full) => self.block(full, claimed),
            }
        }
        None
    }

    /// Waits for a slot of a lane. The turn that it had in its other lanes goes to the next there.
    fn block(&mut self, full: i32, claimed: Claimed) {
        for other in &claimed.lanes {
            if let Some(lane) = self.lanes.get_mut(other)
                && !lane.is_full()
                && let Some(next) = lane.blocked.pop_front()
            {
                self.blocked -= 1;
                self.ready.push_front(next);
            }
        }
        if let Some(lane) = self.lanes.get_mut(&full) {
            lane.blocked.push_back(claimed);
            self.blocked += 1;
        }
    }

    /// One that ran in these lanes has ended.
    pub(super) fn ended(&mut self, lanes: &[i32]) {
        for lane in lanes {
            let Some(lane) = self.lanes.get_mut(lane) else {
                continue;
            };
            lane.running = lane.running.saturating_sub(1);
            if let Some(next) = lane.blocked.pop_front() {
                self.blocked -= 1;
                self.ready.push_front(next);
            }
        }
        self.left(lanes);
    }

    fn left(&mut self, lanes: &[i32]) {
        for lane in lanes {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.claimed = lane.claimed.saturating_sub(1);
                self.unsettled = true;
            }
        }
    }

    /// All that waits, to be given back.
    pub(super) fn drain(&mut self) -> Vec<Claimed> {
        let mut all = self.drain_singles();
        let gatherings = self.gatherings.values_mut();
        let gathered: Vec<Claimed> = gatherings.flat_map(Gathering::drain).collect();
        for claimed in &gathered {
            self.left(&claimed.lanes);
        }
        all.extend(gathered);
        all
    }

    /// What waits for its turn, a slot or its time, and for no batch.
    pub(super) fn drain_singles(&mut self) -> Vec<Claimed> {
        let mut all: Vec<Claimed> = self.ready.drain(..).collect();
        all.extend(std::mem::take(&mut self.later).into_values());
        for lane in self.lanes.values_mut() {
            all.extend(lane.blocked.drain(..));
        }
        self.blocked = 0;
        for claimed in &all {
            self.left(&claimed.lanes);
        }
        all
    }

    /// Takes out the one with this id.
    pub(super) fn remove(&mut self, id: Uuid) -> Option<Claimed> {
        fn take(queue: &mut VecDeque<Claimed>, id: Uuid) -> Option<Claimed> {
            let at = queue.iter().position(|claimed| claimed.id == id)?;
            queue.remove(at)
        }
        let later = self.later.iter().find(|(_, claimed)| claimed.id == id);
        let later = later.map(|(key, _)| *key);
        let claimed = later
            .and_then(|key| self.later.remove(&key))
            .or_else(|| take(&mut self.ready, id))
            .or_else(|| {
                let mut lanes = self.lanes.values_mut();
                let blocked = lanes.find_map(|lane| take(&mut lane.blocked, id));
                self.blocked -= usize::from(blocked.is_some());
                blocked
            })
            .or_else(|| {
                let mut gatherings = self.gatherings.values_mut();
                gatherings.find_map(|gathering| gathering.remove(id))
            })?;
        self.left(&claimed.lanes);
        Some(claimed)
    }

    /// The slots of these lanes that the database says are ours. A lane that it no longer knows
    /// belonged to a limit that is gone.
    pub(super) fn granted(&mut self, asked: &[i32], lanes: &[i32], slots: &[i32]) {
        for (lane, slots) in lanes.iter().zip(slots) {
            let lane = self.lanes.entry(*lane).or_default();
            lane.slots = usize::try_from(*slots).unwrap_or(0);
            // More slots than before may be free now.
            let free = lane.slots.saturating_sub(lane.running);
            let blocked = lane.blocked.len().min(free);
            self.blocked -= blocked;
            for next in lane.blocked.drain(..blocked).rev() {
                self.ready.push_front(next);
            }
            // Somebody else had the lane locked when we wanted to give slots back.
            self.unsettled |= lane.slots > lane.claimed;
        }
        let known: HashSet<i32> = lanes.iter().copied().collect();
        for gone in asked.iter().filter(|lane| !known.contains(lane)) {
            if let Some(lane) = self.lanes.remove(gone) {
                self.blocked -= lane.blocked.len();
                self.ready.extend(lane.blocked);
            }
        }
        self.lanes
            .retain(|_, lane| lane.claimed > 0 || lane.slots > 0);
    }

    /// The lanes in which this worker has slots, and how many executions of each it holds.
    pub(super) fn lanes(&mut self) -> (Vec<i32>, Vec<i32>) {
        self.unsettled = false;
        let used = |lane: &Lane| i32::try_from(lane.claimed).unwrap_or(i32::MAX);
        self.lanes
            .iter()
            .map(|(id, lane)| (*id, used(lane)))
            .unzip()
    }

    /// The database should hear that slots are free.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// What was said of the lanes may not have been heard.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = !self.lanes.is_empty();
    }

    /// Under another identity: the slots are gone with the old one.
    pub(super) fn forget_lanes(&mut self) {
        self.lanes.clear();
        self.unsettled = false;
    }

    /// When something that waits for its time, or for its batch, may start.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        let batches = self.gatherings.values().filter_map(Gathering::ready_at);
        later.into_iter().chain(batches).min()
    }

    /// Whether something waits for a handler or a slot.
    pub(super) fn is_waiting(&self) -> bool {
        let now = Instant::now();
        let is_ready = |gathering: &Gathering| gathering.is_ready(now);
        !self.ready.is_empty() || self.blocked > 0 || self.gatherings.values().any(is_ready)
    }

    /// The tasks that run in batches.
    pub(super) fn batched(&self) -> impl Iterator<Item = i32> {
        self.gatherings.keys().copied()
    }

    /// How many items fill so many more batches, of the task that lacks most.
    pub(super) fn batch_room(&self, batches: usize) -> usize {
        let rooms = self.gatherings.values().map(|of| of.room(batches));
        rooms.max().unwrap_or(0)
    }

    fn blocked(&self) -> impl Iterator<Item = &Claimed> {
        self.lanes.values().flat_map(|lane| &lane.blocked)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Uuid> {
        let waiting = self.ready.iter().chain(self.later.values());
        let gathered = self.gatherings.values().flat_map(Gathering::ids);
        let waiting = waiting.chain(self.blocked()).map(|claimed| claimed.id);
        waiting.chain(gathered)
    }

    /// How many wait, those for a batch not counted.
    pub(super) fn singles(&self) -> usize {
        self.ready.len() + self.later.len() + self.blocked
    }

    pub(super) fn is_empty(&self) -> bool {
        self.singles() == 0 && self.gatherings.values().all(Gathering::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claimed(n: u128, lanes: &[i32]) -> Claimed {
        Claimed {
            id: Uuid::from_u128(n),
            task_id: 1,
            claim: 1,
            attempt: 1,
            payload: String::new(),
            memo: None,
            origin: Uuid::from_u128(n),
            parent: None,
            trigger: None,
            lanes: lanes.to_vec(),
            start_at: None,
        }
    }

    fn started(backlog: &mut Backlog) -> Vec<u128> {
        std::iter::from_fn(|| backlog.next_single().map(|claimed| claimed.id.as_u128())).collect()
    }

    #[test]
    fn no_more_run_than_there_are_slots_and_others_pass() {
        let mut backlog = Backlog::default();
        let lanes: [&[i32]; 5] = [&[1], &[1], &[1], &[], &[2]];
        backlog.extend(lanes.iter().zip(1..).map(|(l, n)| claimed(n, l)).collect());
        backlog.granted(&[], &[1, 2], &[2, 1]);
        assert_eq!(started(&mut backlog), [1, 2, 4, 5]);
        assert_eq!(backlog.singles(), 1);
        backlog.ended(&[1]);
        assert!(backlog.is_unsettled());
        assert_eq!(started(&mut backlog), [3]);
        let (mut lanes, used) = backlog.lanes();
        assert_eq!(used.iter().sum::<i32>(), 3);
        lanes.sort_unstable();
        assert_eq!(lanes, [1, 2]);
    }

    #[test]
    fn a_turn_that_one_cannot_take_goes_to_the_next() {
        let mut backlog = Backlog::default();
        let lanes: [&[i32]; 4] = [&[1], &[2], &[1, 2], &[1]];
        backlog.extend(lanes.iter().zip(1..).map(|(l, n)| claimed(n, l)).collect());
        backlog.granted(&[], &[1, 2], &[1, 1]);
        assert_eq!(started(&mut backlog), [1, 2]);
        // The third has lane 1, but not lane 2.
        backlog.ended(&[1]);
        assert_eq!(started(&mut backlog), [4]);
        backlog.ended(&[2]);
        assert_eq!(started(&mut backlog), [] as [u128; 0]);
        backlog.ended(&[1]);
        assert_eq!(started(&mut backlog), [3]);
        backlog.ended(&[1, 2]);
        assert!(backlog.is_empty());
        backlog.granted(&[1, 2], &[1, 2], &[0, 0]);
        assert_eq!(backlog.lanes(), (vec![], vec![]));
    }

    #[test]
    fn a_lane_that_is_gone_lets_go_what_it_held() {
        let mut backlog = Backlog::default();
        backlog.extend(vec![claimed(1, &[1]), claimed(2, &[1])]);
        backlog.granted(&[], &[1], &[1]);
        assert_eq!(started(&mut backlog), [1]);
        backlog.granted(&[1], &[], &[]);
        assert_eq!(started(&mut backlog), [2]);
    }

    #[test]
    fn what_has_a_time_waits_for_it() {
        let mut backlog = Backlog::default();
        let mut one = claimed(1, &[]);
        one.start_at = Some(Instant::now() + Duration::from_secs(3600));
        backlog.extend(vec![one]);
        assert_eq!(started(&mut backlog), [] as [u128; 0]);
        assert!(backlog.next_start().is_some());
        assert!(!backlog.is_waiting());
        assert!(backlog.remove(Uuid::from_u128(1)).is_some());
        assert!(backlog.is_empty());
    }

    #[test]
    fn what_is_gathered_is_known_and_comes_as_a_batch() {
        let long = Duration::from_secs(3600);
        let mut backlog = Backlog {
            gatherings: HashMap::from([(1, Gathering::new(3, long))]),
            ..Backlog::default()
        };
        backlog.extend((1..=2).map(|n| claimed(n, &[])).collect());
        assert_eq!(backlog.ids().count(), 2);
        assert_eq!((backlog.singles(), backlog.is_empty()), (0, false));
        // It waits for nothing but time, so no stall gives it back.
        assert!(!backlog.is_waiting());
        assert!(backlog.drain_singles().is_empty());
        assert!(backlog.next().is_none());
        assert!(backlog.next_start().is_some());
        assert_eq!((backlog.batch_room(1), backlog.batch_room(2)), (1, 4));

        assert!(backlog.remove(Uuid::from_u128(2)).is_some());
        backlog.extend((3..=6).map(|n| claimed(n, &[])).collect());
        let Some(Turn::Batch(batch)) = backlog.next() else {
            panic!("no batch");
        };
        let batch: Vec<u128> = batch.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(batch, [1, 3, 4]);
        assert!(backlog.next().is_none());
        assert_eq!(backlog.drain().len(), 2);
        assert!(backlog.is_empty());
    }
}
