use std::sync::Weak;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const TAKEN: u8 = 2;

/// Observes from another thread how a handler uses the threads of its runtime.
#[derive(Debug)]
pub(super) struct Pulse {
    state: AtomicU8,
    spawned: Instant,
    /// When the poll in progress began: microseconds since `spawned`, plus one; zero between polls.
    polled: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(WAITS),
            spawned: Instant::now(),
            polled: AtomicU64::new(0),
        }
    }

    /// Called at each poll. Returns false if the worker took the handler back before its first
    /// poll.
    pub(super) fn begin(&self) -> bool {
        let begun = self
            .state
            .compare_exchange(WAITS, BEGUN, Ordering::AcqRel, Ordering::Acquire);
        if begun == Err(TAKEN) {
            return false;
        }
        let since = u64::try_from(self.spawned.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.polled.store(since + 1, Ordering::Relaxed);
        true
    }

    /// Called when the handler has yielded.
    pub(super) fn rest(&self) {
        self.polled.store(0, Ordering::Relaxed);
    }

    /// Takes the handler back if it has had no thread for this long. It will then never begin.
    pub(super) fn take_back(&self, after: Duration) -> bool {
        self.spawned.elapsed() >= after
            && self
                .state
                .compare_exchange(WAITS, TAKEN, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
    }

    /// Returns for how long it has not yielded, if a poll is in progress.
    pub(super) fn blocks(&self) -> Option<Duration> {
        let since = self.polled.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.spawned
                .elapsed()
                .saturating_sub(Duration::from_micros(since)),
        )
    }

    /// Returns the time since it was handed to the runtime.
    pub(super) fn elapsed(&self) -> Duration {
        self.spawned.elapsed()
    }
}

/// A handler that its worker left behind because it did not yield.
#[derive(Debug)]
pub(crate) struct Held(pub(super) Weak<Pulse>);

impl Held {
    /// Returns whether it still holds its thread.
    pub(crate) fn holds(&self) -> bool {
        let pulse = self.0.upgrade();
        pulse.is_some_and(|pulse| pulse.blocks().is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_was_left_behind_holds_its_thread_until_it_yields() {
        let pulse = Arc::new(Pulse::new());
        let held = Held(Arc::downgrade(&pulse));
        assert!(!held.holds());
        assert!(pulse.begin() && held.holds());
        pulse.rest();
        assert!(!held.holds());
        assert!(pulse.begin());
        drop(pulse);
        assert!(!held.holds());
    }

    #[test]
    fn it_begins_or_is_taken_back() {
        let pulse = Pulse::new();
        assert!(!pulse.take_back(Duration::from_secs(60)));
        assert!(pulse.take_back(Duration::ZERO) && !pulse.begin());
        let pulse = Pulse::new();
        assert!(pulse.begin() && pulse.blocks().is_some());
        pulse.rest();
        assert!(pulse.blocks().is_none());
        assert!(!pulse.take_back(Duration::ZERO) && pulse.begin());
    }
}
