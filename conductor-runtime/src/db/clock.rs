use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

/// The database's clock as this process knows it, with what tests have moved it by.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    shift_ms: watch::Receiver<i64>,
    seen: Arc<Mutex<Seen>>,
}

/// The last look at the database's clock.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Without the shift.
    real: DateTime<Utc>,
    at: Instant,
    shift_ms: i64,
    /// The shift that notifications had told by then; a later one counts more than the look.
    told_ms: i64,
}

impl Clock {
    /// A clock that goes by this machine until it is [set](Self::set).
    pub(crate) fn new(shift_ms: watch::Receiver<i64>) -> Self {
        let told_ms = *shift_ms.borrow();
        let seen = Seen {
            real: Utc::now(),
            at: Instant::now(),
            shift_ms: told_ms,
            told_ms,
        };
        Self {
            shift_ms,
            seen: Arc::new(Mutex::new(seen)),
        }
    }

    /// Takes over what a statement has just said: the virtual time, and its shift.
    pub(crate) fn set(&self, now: DateTime<Utc>, shift_ms: i64) {
        let seen = Seen {
            real: now - milliseconds(shift_ms),
            at: Instant::now(),
            shift_ms,
            told_ms: *self.shift_ms.borrow(),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// About what `conductor.now()` would say: exact decisions are the database's.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let told_ms = *self.shift_ms.borrow();
        let shift_ms = if told_ms == seen.told_ms {
            seen.shift_ms
        } else {
            told_ms
        };
        let passed = TimeDelta::from_std(seen.at.elapsed()).unwrap_or(TimeDelta::MAX);
        seen.real + passed + milliseconds(shift_ms)
    }

    /// The time so long from now, by the running clock and what tests move it meanwhile.
    pub(crate) fn deadline(&self, duration: Duration) -> Deadline {
        let shift_then = *self.shift_ms.borrow();
        Deadline {
            shift_ms: self.shift_ms.clone(),
            started: Instant::now(),
            shift_then,
            duration,
        }
    }
}

/// The longest time that a poll of a handler that does not block takes.
const ONE_POLL: Duration = Duration::from_millis(50);

/// A time by the clock that tests move.
#[derive(Debug)]
pub(crate) struct Deadline {
    shift_ms: watch::Receiver<i64>,
    started: Instant,
    shift_then: i64,
    duration: Duration,
}

impl Deadline {
    /// Whether what ends now has held its thread beyond the deadline. What ends in the poll in which its time
    /// runs out, as with a timeout of 0, has made it.
    pub(crate) fn is_over(&self) -> bool {
        self.elapsed(*self.shift_ms.borrow()) > self.duration.saturating_add(ONE_POLL)
    }

    fn left(&self, shift_ms: i64) -> Duration {
        self.duration.saturating_sub(self.elapsed(shift_ms))
    }

    fn elapsed(&self, shift_ms: i64) -> Duration {
        let shift = u64::try_from(shift_ms - self.shift_then).unwrap_or(0);
        self.started.elapsed() + Duration::from_millis(shift)
    }

    pub(crate) async fn passed(&self) {
        let mut shift_ms = self.shift_ms.clone();
        loop {
            let shift = *shift_ms.borrow_and_update();
            let left = self.left(shift);
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                changed = shift_ms.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep(left).await;
                    }
                }
            }
        }
    }
}

fn milliseconds(millis: i64) -> TimeDelta {
    TimeDelta::try_milliseconds(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_counts_once_whoever_tells_it_first() {
        let day = TimeDelta::days(1);
        let near = |a: DateTime<Utc>, b: DateTime<Utc>| (a - b).abs() < TimeDelta::seconds(5);
        let (teller, told) = watch::channel(0);
        let clock = Clock::new(told);
        let base = Utc::now();
        // The look sees the shift before the notification comes.
        clock.set(base + day, day.num_milliseconds());
        assert!(near(clock.now(), base + day));
        teller.send_replace(day.num_milliseconds());
        assert!(near(clock.now(), base + day));
        // The notification comes before the next look.
        teller.send_replace(2 * day.num_milliseconds());
        assert!(near(clock.now(), base + day * 2));
        clock.set(base + day * 2, 2 * day.num_milliseconds());
        assert!(near(clock.now(), base + day * 2));
    }
}
