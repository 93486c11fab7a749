use std::time::Duration;

/// How long a claimed execution may wait for a handler.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// The most executions that a worker holds, including running ones.
const MOST_HELD: usize = 4000;
/// The weight of a new measurement in the mean.
const WEIGHT: f64 = 0.05;

/// Determines how many executions a worker may hold, from the mean duration of its handlers.
///
/// With slow handlers, only as many as can run, so that other workers get the rest. With quick
/// ones, as many as start within [`LONGEST_WAIT`], so that one claim returns thousands.
#[derive(Debug)]
pub(super) struct Prefetch {
    concurrency: usize,
    mean_seconds: Option<f64>,
}

impl Prefetch {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            concurrency,
            mean_seconds: None,
        }
    }

    pub(super) fn measured(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.mean_seconds = Some(match self.mean_seconds {
            Some(mean) => mean + (took - mean) * WEIGHT,
            None => took,
        });
    }

    /// Notes that handlers have become slow. Only as many are held as can run, until they are quick
    /// again.
    pub(super) fn stalled(&mut self) {
        self.mean_seconds = Some(LONGEST_WAIT.as_secs_f64() * 20.0);
    }

    pub(super) fn most_held(&self) -> usize {
        let Some(mean) = self.mean_seconds else {
            return self.concurrency;
        };
        let rounds = LONGEST_WAIT.as_secs_f64() / mean.max(1e-6);
        if rounds < 1.0 {
            return self.concurrency;
        }
        let ahead = (self.concurrency as f64 * rounds) as usize;
        (self.concurrency + ahead).clamp(self.concurrency, MOST_HELD.max(self.concurrency))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_handlers_are_not_claimed_ahead_and_quick_ones_are() {
        let mut prefetch = Prefetch::new(10);
        assert_eq!(prefetch.most_held(), 10);
        prefetch.measured(Duration::from_secs(2));
        assert_eq!(prefetch.most_held(), 10);
        for _ in 0..500 {
            prefetch.measured(Duration::from_micros(5));
        }
        assert_eq!(prefetch.most_held(), MOST_HELD);
        prefetch.stalled();
        assert_eq!(prefetch.most_held(), 10);
    }

    #[test]
    fn ten_milliseconds_are_five_rounds_ahead() {
        let mut prefetch = Prefetch::new(4);
        prefetch.measured(Duration::from_millis(10));
        assert_eq!(prefetch.most_held(), 24);
    }
}
