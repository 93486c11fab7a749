use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use conductor_postgres::store::{Claimed, Slots};
use uuid::Uuid;

use super::batch_buffer::{BatchBuffer, MOST_BATCH_BYTES};
use super::limit_slots::LimitSlots;
use crate::task::TaskDefinition;

/// What was claimed and waits for a free handler, a slot of its lanes, its start time, or a batch.
#[derive(Debug, Default)]
pub(super) struct LocalQueue {
    /// By task, for tasks that run in batches.
    buffers: HashMap<i32, BatchBuffer>,
    ready: VecDeque<Claimed>,
    /// By the start time that a rate limit sets; the number keeps the order of equal times.
    later: BTreeMap<(Instant, u64), Claimed>,
    number: u64,
    lanes: LimitSlots,
}

/// What one handler runs next.
#[derive(Debug)]
pub(super) enum Turn {
    Single(Claimed),
    /// Of one task, in the order of their claims.
    Batch(Vec<Claimed>),
}

impl Turn {
    pub(super) fn claimed(&self) -> &[Claimed] {
        match self {
            Self::Single(claimed) => std::slice::from_ref(claimed),
            Self::Batch(claimed) => claimed,
        }
    }
}

impl LocalQueue {
    pub(super) fn of(tasks: &HashMap<i32, &'static TaskDefinition>) -> Self {
        let buffers = tasks.iter().filter_map(|(id, task)| {
            let batch = task.batch()?;
            Some((*id, BatchBuffer::new(batch.max_size, batch.max_wait)))
        });
        Self {
            buffers: buffers.collect(),
            ..Self::default()
        }
    }

    /// Adds claimed executions.
    pub(super) fn extend(&mut self, claimed: Vec<Claimed>, now: Instant) {
        for mut claimed in claimed {
            // Not since its row arrived: a large answer takes time, and what waits long is given
            // back.
            claimed.since = now;
            self.lanes.claimed(&claimed, now);
            if let Some(buffer) = self.buffers.get_mut(&claimed.task_id) {
                buffer.add(now, claimed);
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
    pub(super) fn next(&mut self, now: Instant) -> Option<Turn> {
        self.next_batch(now)
            .map(Turn::Batch)
            .or_else(|| self.next_single(now).map(Turn::Single))
    }

    fn next_batch(&mut self, now: Instant) -> Option<Vec<Claimed>> {
        // If small batches of many tasks use up the room, the first one starts early.
        let gathered: usize = self.buffers.values().map(BatchBuffer::bytes).sum();
        let crowded = gathered >= 3 * MOST_BATCH_BYTES;
        let ready = self.buffers.values_mut();
        let oldest = ready
            .filter(|buffer| buffer.is_ready(now) || crowded && !buffer.is_empty())
            .min_by_key(|buffer| buffer.since())?;
        let batch = oldest.take();
        for claimed in &batch {
            // The task may have limits if another program declares it differently.
            self.lanes.start(&claimed.lanes);
        }
        Some(batch)
    }

    fn next_single(&mut self, now: Instant) -> Option<Claimed> {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
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
    pub(super) fn ended(&mut self, lanes: &[i32], now: Instant) {
        self.lanes.ended(lanes, &mut self.ready, now);
    }

    /// Removes everything that waits, to give it back.
    pub(super) fn drain(&mut self, now: Instant) -> Vec<Claimed> {
        let mut all = self.drain_singles(now);
        let buffers = self.buffers.values_mut();
        let gathered: Vec<Claimed> = buffers.flat_map(BatchBuffer::drain).collect();
        for claimed in &gathered {
            self.lanes.left(&claimed.lanes, now);
        }
        all.extend(gathered);
        all
    }

    /// Removes everything except what waits for a batch.
    pub(super) fn drain_singles(&mut self, now: Instant) -> Vec<Claimed> {
        let mut all: Vec<Claimed> = self.ready.drain(..).collect();
        all.extend(std::mem::take(&mut self.later).into_values());
        all.extend(self.lanes.drain());
        for claimed in &all {
            self.lanes.left(&claimed.lanes, now);
        }
        all
    }

    /// Removes what has waited this long for a slot of its lanes, while others may have continued.
    pub(super) fn drain_blocked(&mut self, long: Duration, now: Instant) -> Vec<Claimed> {
        let all = self.lanes.drain_old(long, now);
        for claimed in &all {
            self.lanes.left(&claimed.lanes, now);
        }
        all
    }

    /// Returns whether something has waited this long for a handler.
    pub(super) fn has_waited(&self, long: Duration, now: Instant) -> bool {
        let oldest = self.ready.front();
        oldest.is_some_and(|claimed| now >= claimed.since + long)
    }

    /// Removes the execution with this id.
    pub(super) fn remove(&mut self, id: Uuid, now: Instant) -> Option<Claimed> {
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
                let mut buffers = self.buffers.values_mut();
                buffers.find_map(|buffer| buffer.remove(id))
            })?;
        self.lanes.left(&claimed.lanes, now);
        Some(claimed)
    }

    /// Sets the slots that the database grants, for the lanes in the request and for others.
    pub(super) fn granted(&mut self, asked: &[i32], told: Vec<Slots>, now: Instant) {
        self.lanes.granted(asked, told, &mut self.ready, now);
    }

    pub(super) fn lanes(&self) -> &LimitSlots {
        &self.lanes
    }

    pub(super) fn lanes_mut(&mut self) -> &mut LimitSlots {
        &mut self.lanes
    }

    /// Returns when something that waits for its start time or its batch may start.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        let batches = self.buffers.values().filter_map(BatchBuffer::ready_at);
        later.into_iter().chain(batches).min()
    }

    /// Returns whether something waits for a handler or a slot.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        let is_ready = |buffer: &BatchBuffer| buffer.is_ready(now);
        !self.ready.is_empty()
            || self.lanes.count_blocked() > 0
            || self.buffers.values().any(is_ready)
    }

    /// Returns the tasks that run in batches.
    pub(super) fn batched(&self) -> impl Iterator<Item = i32> {
        self.buffers.keys().copied()
    }

    /// Returns how many items fill this many more batches, for the task that needs most.
    pub(super) fn batch_room(&self, batches: usize) -> usize {
        let rooms = self.buffers.values().map(|of| of.room(batches));
        rooms.max().unwrap_or(0)
    }

    /// Returns everything that waits.
    pub(super) fn all(&self) -> impl Iterator<Item = &Claimed> {
        let waiting = self.ready.iter().chain(self.later.values());
        let gathered = self.buffers.values().flat_map(BatchBuffer::items);
        waiting.chain(self.lanes.blocked()).chain(gathered)
    }

    /// Returns how many wait, except those for a batch.
    pub(super) fn singles(&self) -> usize {
        self.ready.len() + self.later.len() + self.lanes.count_blocked()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.singles() == 0 && self.buffers.values().all(BatchBuffer::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::example;

    fn claimed(n: u128, lanes: &[i32]) -> Claimed {
        example::claimed(n, 1, lanes)
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
    fn lanes(queue: &mut LocalQueue, now: Instant) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let columns = queue.lanes_mut().columns(1, |_| 1, now);
        (columns.lanes, columns.used, columns.back)
    }

    fn started(queue: &mut LocalQueue, now: Instant) -> Vec<u128> {
        std::iter::from_fn(|| queue.next_single(now).map(|claimed| claimed.id.as_u128())).collect()
    }

    #[test]
    fn no_more_run_than_there_are_slots_and_others_pass() {
        let now = Instant::now();
        let mut queue = LocalQueue::default();
        let needs: [&[i32]; 5] = [&[1], &[1], &[1], &[], &[2]];
        queue.extend(
            needs.iter().zip(1..).map(|(l, n)| claimed(n, l)).collect(),
            now,
        );
        queue.granted(&[], slots(&[(1, 2), (2, 1)]), now);
        assert_eq!(started(&mut queue, now), [1, 2, 4, 5]);
        assert_eq!(queue.singles(), 1);
        queue.ended(&[1], now);
        assert!(queue.lanes().unsettled().is_some());
        assert_eq!(started(&mut queue, now), [3]);
        let (mut all, used, _) = lanes(&mut queue, now);
        assert_eq!(used.iter().sum::<i32>(), 3);
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn slots_are_kept_for_a_while_where_more_is_due() {
        let now = Instant::now();
        let mut queue = LocalQueue::default();
        queue.lanes_mut().set_deep(true, now);
        queue.extend(vec![claimed(1, &[1])], now);
        queue.granted(&[], slots(&[(1, 1)]), now);
        assert_eq!(started(&mut queue, now), [1]);
        queue.ended(&[1], now);
        assert!(queue.lanes().unsettled().is_some_and(|at| at > now));
        // All lanes are requested from time to time.
        assert_eq!(lanes(&mut queue, now), (vec![1], vec![0], vec![1]));
        assert_eq!(lanes(&mut queue, now), (vec![1], vec![0], vec![]));
        assert!(queue.lanes().unsettled().is_some());
        // The answer to a lost request may have taken slots away.
        queue.lanes_mut().unsettle(now);
        assert_eq!(lanes(&mut queue, now), (vec![1], vec![0], vec![1]));
        queue.granted(&[1], slots(&[(1, 1)]), now);
        queue.lanes_mut().set_deep(false, now);
        assert!(queue.lanes().unsettled().is_some_and(|at| at <= now));
        assert_eq!(lanes(&mut queue, now), (vec![1], vec![0], vec![1]));
    }

    #[test]
    fn a_turn_that_one_cannot_take_goes_to_the_next() {
        let now = Instant::now();
        let mut queue = LocalQueue::default();
        let needs: [&[i32]; 4] = [&[1], &[2], &[1, 2], &[1]];
        queue.extend(
            needs.iter().zip(1..).map(|(l, n)| claimed(n, l)).collect(),
            now,
        );
        queue.granted(&[], slots(&[(1, 1), (2, 1)]), now);
        assert_eq!(started(&mut queue, now), [1, 2]);
        // The third one has lane 1, but not lane 2.
        queue.ended(&[1], now);
        assert_eq!(started(&mut queue, now), [4]);
        queue.ended(&[2], now);
        assert_eq!(started(&mut queue, now), [] as [u128; 0]);
        queue.ended(&[1], now);
        assert_eq!(started(&mut queue, now), [3]);
        queue.ended(&[1, 2], now);
        assert!(queue.is_empty());
        queue.granted(&[1, 2], slots(&[(1, 0), (2, 0)]), now);
        assert_eq!(lanes(&mut queue, now), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_lane_that_is_gone_lets_go_what_it_held() {
        let now = Instant::now();
        let mut queue = LocalQueue::default();
        queue.extend(vec![claimed(1, &[1]), claimed(2, &[1])], now);
        queue.granted(&[], slots(&[(1, 1)]), now);
        assert_eq!(started(&mut queue, now), [1]);
        queue.granted(&[1], slots(&[]), now);
        assert_eq!(started(&mut queue, now), [2]);
    }

    #[test]
    fn what_has_a_time_waits_for_it() {
        let now = Instant::now();
        let mut queue = LocalQueue::default();
        let mut one = claimed(1, &[]);
        one.start_at = Some(now + Duration::from_secs(3600));
        queue.extend(vec![one], now);
        assert_eq!(started(&mut queue, now), [] as [u128; 0]);
        assert!(queue.next_start().is_some());
        assert!(!queue.is_waiting(now));
        assert!(queue.remove(Uuid::from_u128(1), now).is_some());
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_gathered_is_known_and_comes_as_a_batch() {
        let long = Duration::from_secs(3600);
        let now = Instant::now();
        let mut queue = LocalQueue {
            buffers: HashMap::from([(1, BatchBuffer::new(3, long))]),
            ..LocalQueue::default()
        };
        queue.extend((1..=2).map(|n| claimed(n, &[])).collect(), now);
        assert_eq!(queue.all().count(), 2);
        assert_eq!((queue.singles(), queue.is_empty()), (0, false));
        // It only waits for time, so a stall does not give it back.
        assert!(!queue.is_waiting(now));
        assert!(queue.drain_singles(now).is_empty());
        assert!(queue.next(now).is_none());
        assert!(queue.next_start().is_some());
        assert_eq!((queue.batch_room(1), queue.batch_room(2)), (1, 4));

        assert!(queue.remove(Uuid::from_u128(2), now).is_some());
        queue.extend((3..=6).map(|n| claimed(n, &[])).collect(), now);
        let Some(Turn::Batch(batch)) = queue.next(now) else {
            panic!("no batch");
        };
        let batch: Vec<u128> = batch.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(batch, [1, 3, 4]);
        assert!(queue.next(now).is_none());
        assert_eq!(queue.drain(now).len(), 2);
        assert!(queue.is_empty());
    }
}
