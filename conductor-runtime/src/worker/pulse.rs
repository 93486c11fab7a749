use std::sync::Weak;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const TAKEN: u8 = 2;

/// How a handler gets on with the threads of its runtime, as its worker sees it from another one.
#[derive(Debug)]
pub(super) struct Pulse {
    state: AtomicU8,
    spawned: Instant,
    /// Of the poll under way: microseconds since it was spawned, and one more; zero between polls.
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

    /// At each poll; false where the worker has taken the handler back before it came to run.
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

    /// It has yielded.
    pub(super) fn rest(&self) {
        self.polled.store(0, Ordering::Relaxed);
    }

    /// Whether the handler has found no thread for so long and is taken back: it will never begin.
    pub(super) fn take_back(&self, after: Duration) -> bool {
        self.spawned.elapsed() >= after
            && self
                .state
                .compare_exchange(WAITS, TAKEN, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
    }

    /// For how long it has not yielded.
    pub(super) fn blocks(&self) -> Option<Duration> {
        let since = self.polled.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.spawned
                .elapsed()
                .saturating_sub(Duration::from_micros(since)),
        )
    }

    /// Since it was handed over to the runtime.
    pub(super) fn elapsed(&self) -> Duration {
        self.spawned.elapsed()
    }
}

/// A handler that its worker has left behind, as it did not yield.
#[derive(Debug)]
pub(crate) struct Held(pub(super) Weak<Pulse>);

impl Held {
    /// Whether it holds its thread still.
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
