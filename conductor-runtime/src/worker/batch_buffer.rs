use std::collections::VecDeque;
use std::time::{Duration, Instant};

use conductor_postgres::store::Claimed;
use uuid::Uuid;

/// The claimed executions of one task that wait to run together as a batch.
#[derive(Debug)]
pub(super) struct BatchBuffer {
    max_size: usize,
    max_wait: Duration,
    /// Each with the time at which it reached this worker.
    items: VecDeque<(Instant, Claimed)>,
    bytes: usize,
}

/// The size at which a batch is full, because a worker holds only a few times this much.
pub(super) const MOST_BATCH_BYTES: usize = 16 * 1024 * 1024;

impl BatchBuffer {
    pub(super) fn new(max_size: u32, max_wait: Duration) -> Self {
        Self {
            max_size: usize::try_from(max_size).unwrap_or(usize::MAX).max(1),
            max_wait,
            items: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(super) fn add(&mut self, now: Instant, claimed: Claimed) {
        self.bytes += claimed.bytes();
        self.items.push_back((now, claimed));
    }

    /// Returns since when the first item waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.items.front().map(|(at, _)| *at)
    }

    /// Returns when the first item has waited long enough.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        let since = self.since()?;
        Some(since.checked_add(self.max_wait).unwrap_or(since))
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.items.len() >= self.max_size
            || self.bytes >= MOST_BATCH_BYTES
            || self.ready_at().is_some_and(|at| at <= now)
    }

    /// Takes one batch: at most as many items as make it full, where a single item may be of any
    /// size.
    pub(super) fn take(&mut self) -> Vec<Claimed> {
        let mut bytes = 0;
        let first = self.items.iter().take(self.max_size);
        let first = first.take_while(|(_, item)| {
            let is_full = bytes >= MOST_BATCH_BYTES;
            bytes += item.bytes();
            !is_full
        });
        let size = first.count();
        let batch: Vec<Claimed> = self.items.drain(..size).map(|(_, item)| item).collect();
        self.bytes -= batch.iter().map(Claimed::bytes).sum::<usize>();
        batch
    }

    /// Returns how many more items fill this many batches.
    pub(super) fn room(&self, batches: usize) -> usize {
        let most = batches.saturating_mul(self.max_size);
        most.saturating_sub(self.items.len())
    }

    pub(super) fn remove(&mut self, id: Uuid) -> Option<Claimed> {
        let at = self.items.iter().position(|(_, item)| item.id == id)?;
        let (_, item) = self.items.remove(at)?;
        self.bytes -= item.bytes();
        Some(item)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Claimed> {
        self.bytes = 0;
        self.items.drain(..).map(|(_, item)| item)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Claimed> {
        self.items.iter().map(|(_, item)| item)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::worker::example;

    fn claimed(n: u128) -> Claimed {
        example::claimed(n, 1, &[])
    }

    #[test]
    fn a_batch_is_ready_when_it_is_full_or_its_first_item_has_waited() {
        let wait = Duration::from_secs(1);
        let mut buffer = BatchBuffer::new(3, wait);
        let began = Instant::now();
        assert!(!buffer.is_ready(began + wait));
        buffer.add(began, claimed(1));
        let later = began + wait / 2;
        buffer.add(later, claimed(2));
        assert!(!buffer.is_ready(later));
        assert!(buffer.is_ready(began + wait));
        assert_eq!((buffer.room(1), buffer.room(2)), (1, 4));

        for n in 3..=5 {
            buffer.add(later, claimed(n));
        }
        assert!(buffer.is_ready(later));
        assert!(buffer.remove(Uuid::from_u128(2)).is_some());
        let batch: Vec<u128> = buffer.take().iter().map(|c| c.id.as_u128()).collect();
        assert_eq!(batch, [1, 3, 4]);
        // The remaining items have waited since they arrived.
        assert_eq!(buffer.ready_at().unwrap(), later + wait);
        assert_eq!(buffer.items().count(), 1);
    }

    #[test]
    fn a_batch_is_full_with_so_many_bytes() {
        let now = Instant::now();
        let mut buffer = BatchBuffer::new(1000, Duration::from_secs(3600));
        for (n, mib) in [(1, 0), (2, 15), (3, 2), (4, 20), (5, 0)] {
            let mut item = claimed(n);
            item.payload = "x".repeat(mib * 1024 * 1024);
            buffer.add(now, item);
        }
        let mut batch = || -> Vec<u128> {
            let batch = buffer.take();
            batch.iter().map(|item| item.id.as_u128()).collect()
        };
        assert_eq!(batch(), [1, 2, 3]);
        assert_eq!(batch(), [4]);
        assert_eq!(batch(), [5]);
        assert_eq!(batch(), [] as [u128; 0]);
        assert_eq!(buffer.bytes(), 0);
    }
}
