use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::fetch::{Claimed, Slots};
use super::gathering::{Gathering, MOST_BATCH_BYTES};
use super::lanes::Lanes;
use crate::task::TaskDefinition;

/// What was claimed and waits for a free handler, a slot of its lanes, its start time, or a batch.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// By task, for tasks that run in batches.
    gatherings: HashMap<i32, Gathering>,
    ready: VecDeque<Claimed>,
    /// By the start time that a rate limit sets; the number keeps the order of equal times.
    later: BTreeMap<(Instant, u64), Claimed>,
    number: u64,
    lanes: Lanes,
}

/// What one handler runs next.
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

    /// Adds claimed executions.
    pub(super) fn extend(&mut self, claimed: Vec<Claimed>) {
        let now = Instant::now();
        for mut claimed in claimed {
            // Not since its row arrived: a large answer takes time, and what waits long is given
            // back.
            claimed.since = now;
            self.lanes.claimed(&claimed, now);
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

    /// Returns what may start next. Its lanes count it as running until [`ended`](Self::ended). A
    /// batch that is ready comes first, because it has waited longer than single executions.
    pub(super) fn next(&mut self) -> Option<Turn> {
        self.next_batch()
            .map(Turn::Batch)
            .or_else(|| self.next_single().map(Turn::Single))
    }

    fn next_batch(&mut self) -> Option<Vec<Claimed>> {
        let now = Instant::now();
        // If small batches of many tasks use up the room, the first one starts early.
        let gathered: usize = self.gatherings.values().map(Gathering::bytes).sum();
        let crowded = gathered >= 3 * MOST_BATCH_BYTES;
        let ready = self.gatherings.values_mut();
        let oldest = ready
            .filter(|gathering| gathering.is_ready(now) || crowded && !gathering.is_empty())
            .min_by_key(|gathering| gathering.since())?;
        let batch = oldest.take();
        for claimed in &batch {
            // The task may have limits if another program declares it differently.
            self.lanes.start(&claimed.lanes);
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
            match self.lanes.full(&claimed.lanes) {
                None => {
                    self.lanes.start(&claimed.lanes);
                    return Some(claimed);
                }
                Some(full) => self.lanes.block(full, claimed, &mut self.ready),
            }
        }
        None
    }

    /// Ends one execution that ran in these lanes.
    pub(super) fn ended(&mut self, lanes: &[i32]) {
        self.lanes.ended(lanes, &mut self.ready);
    }

    /// Removes everything that waits, to give it back.
    pub(super) fn drain(&mut self) -> Vec<Claimed> {
        let mut all = self.drain_singles();
        let gatherings = self.gatherings.values_mut();
        let gathered: Vec<Claimed> = gatherings.flat_map(Gathering::drain).collect();
        for claimed in &gathered {
            self.lanes.left(&claimed.lanes);
        }
        all.extend(gathered);
        all
    }

    /// Removes everything except what waits for a batch.
    pub(super) fn drain_singles(&mut self) -> Vec<Claimed> {
        let mut all: Vec<Claimed> = self.ready.drain(..).collect();
        all.extend(std::mem::take(&mut self.later).into_values());
        all.extend(self.lanes.drain());
        for claimed in &all {
            self.lanes.left(&claimed.lanes);
        }
        all
    }

    /// Removes what has waited this long for a slot of its lanes, while others may have continued.
    pub(super) fn drain_blocked(&mut self, long: Duration) -> Vec<Claimed> {
        let all = self.lanes.drain_old(long);
        for claimed in &all {
            self.lanes.left(&claimed.lanes);
        }
        all
    }

    /// Returns whether something has waited this long for a handler.
    pub(super) fn has_waited(&self, long: Duration) -> bool {
        let oldest = self.ready.front();
        oldest.is_some_and(|claimed| claimed.since.elapsed() >= long)
    }

    /// Removes the execution with this id.
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
            .or_else(|| self.lanes.remove(id))
            .or_else(|| {
                let mut gatherings = self.gatherings.values_mut();
                gatherings.find_map(|gathering| gathering.remove(id))
            })?;
        self.lanes.left(&claimed.lanes);
        Some(claimed)
    }

    /// Sets the slots that the database grants, for the lanes in the request and for others.
    pub(super) fn granted(&mut self, asked: &[i32], told: Vec<Slots>) {
        self.lanes.granted(asked, told, &mut self.ready);
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(super) fn lanes_mut(&mut self) -> &mut Lanes {
        &mut self.lanes
    }

    /// Returns when something that waits for its start time or its batch may start.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        let batches = self.gatherings.values().filter_map(Gathering::ready_at);
        later.into_iter().chain(batches).min()
    }

    /// Returns whether something waits for a handler or a slot.
    pub(super) fn is_waiting(&self) -> bool {
        let now = Instant::now();
        let is_ready = |gathering: &Gathering| gathering.is_ready(now);
        !self.ready.is_empty()
            || self.lanes.count_blocked() > 0
            || self.gatherings.values().any(is_ready)
    }

    /// Returns the tasks that run in batches.
    pub(super) fn batched(&self) -> impl Iterator<Item = i32> {
        self.gatherings.keys().copied()
    }

    /// Returns how many items fill this many more batches, for the task that needs most.
    pub(super) fn batch_room(&self, batches: usize) -> usize {
        let rooms = self.gatherings.values().map(|of| of.room(batches));
        rooms.max().unwrap_or(0)
    }

    /// Returns everything that waits.
    pub(super) fn all(&self) -> impl Iterator<Item = &Claimed> {
        let waiting = self.ready.iter().chain(self.later.values());
        let gathered = self.gatherings.values().flat_map(Gathering::items);
        waiting.chain(self.lanes.blocked()).chain(gathered)
    }

    /// Returns how many wait, except those for a batch.
    pub(super) fn singles(&self) -> usize {
        self.ready.len() + self.later.len() + self.lanes.count_blocked()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.singles() == 0 && self.gatherings.values().all(Gathering::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(n: u128, lanes: &[i32]) -> Claimed {
        let id = Uuid::from_u128(n);
        Claimed {
            id,
            origin: id,
            ..Claimed::example(1, lanes)
        }
    }

    fn slots(all: &[(i32, i32)]) -> Vec<Slots> {
        let all = all.iter();
        all.map(|(lane, slots)| Slots {
            lane: *lane,
            slots: *slots,
            of: None,
        })
        .collect()
    }

    /// The lanes, used slots and offered slots that the database receives.
    fn lanes(backlog: &mut Backlog) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let columns = backlog.lanes_mut().columns(1, |_| 1);
        (columns.lanes, columns.used, columns.back)
    }

    fn started(backlog: &mut Backlog) -> Vec<u128> {
        std::iter::from_fn(|| backlog.next_single().map(|claimed| claimed.id.as_u128())).collect()
    }

    #[test]
    fn no_more_run_than_there_are_slots_and_others_pass() {
        let mut backlog = Backlog::default();
        let needs: [&[i32]; 5] = [&[1], &[1], &[1], &[], &[2]];
        backlog.extend(needs.iter().zip(1..).map(|(l, n)| claimed(n, l)).collect());
        backlog.granted(&[], slots(&[(1, 2), (2, 1)]));
        assert_eq!(started(&mut backlog), [1, 2, 4, 5]);
        assert_eq!(backlog.singles(), 1);
        backlog.ended(&[1]);
        assert!(backlog.lanes().unsettled().is_some());
        assert_eq!(started(&mut backlog), [3]);
        let (mut all, used, _) = lanes(&mut backlog);
        assert_eq!(used.iter().sum::<i32>(), 3);
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn slots_are_kept_for_a_while_where_more_is_due() {
        let mut backlog = Backlog::default();
        backlog.lanes_mut().set_deep(true);
        backlog.extend(vec![claimed(1, &[1])]);
        backlog.granted(&[], slots(&[(1, 1)]));
        assert_eq!(started(&mut backlog), [1]);
        backlog.ended(&[1]);
        assert!(
            backlog
                .lanes()
                .unsettled()
                .is_some_and(|at| at > Instant::now())
        );
        // All lanes are requested from time to time.
        assert_eq!(lanes(&mut backlog), (vec![1], vec![0], vec![1]));
        assert_eq!(lanes(&mut backlog), (vec![1], vec![0], vec![]));
        assert!(backlog.lanes().unsettled().is_some());
        // The answer to a lost request may have taken slots away.
        backlog.lanes_mut().unsettle();
        assert_eq!(lanes(&mut backlog), (vec![1], vec![0], vec![1]));
        backlog.granted(&[1], slots(&[(1, 1)]));
        backlog.lanes_mut().set_deep(false);
        assert!(
            backlog
                .lanes()
                .unsettled()
                .is_some_and(|at| at <= Instant::now())
        );
        assert_eq!(lanes(&mut backlog), (vec![1], vec![0], vec![1]));
    }

    #[test]
    fn a_turn_that_one_cannot_take_goes_to_the_next() {
        let mut backlog = Backlog::default();
        let needs: [&[i32]; 4] = [&[1], &[2], &[1, 2], &[1]];
        backlog.extend(needs.iter().zip(1..).map(|(l, n)| claimed(n, l)).collect());
        backlog.granted(&[], slots(&[(1, 1), (2, 1)]));
        assert_eq!(started(&mut backlog), [1, 2]);
        // The third one has lane 1, but not lane 2.
        backlog.ended(&[1]);
        assert_eq!(started(&mut backlog), [4]);
        backlog.ended(&[2]);
        assert_eq!(started(&mut backlog), [] as [u128; 0]);
        backlog.ended(&[1]);
        assert_eq!(started(&mut backlog), [3]);
        backlog.ended(&[1, 2]);
        assert!(backlog.is_empty());
        backlog.granted(&[1, 2], slots(&[(1, 0), (2, 0)]));
        assert_eq!(lanes(&mut backlog), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_lane_that_is_gone_lets_go_what_it_held() {
        let mut backlog = Backlog::default();
        backlog.extend(vec![claimed(1, &[1]), claimed(2, &[1])]);
        backlog.granted(&[], slots(&[(1, 1)]));
        assert_eq!(started(&mut backlog), [1]);
        backlog.granted(&[1], slots(&[]));
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
        assert_eq!(backlog.all().count(), 2);
        assert_eq!((backlog.singles(), backlog.is_empty()), (0, false));
        // It only waits for time, so a stall does not give it back.
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
