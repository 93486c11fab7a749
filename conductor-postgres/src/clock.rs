use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::Deadline;

/// An estimate of the database's clock, including the shift that tests set.
#[derive(Debug, Clone)]
pub struct Clock {
    shift_ms: watch::Receiver<i64>,
    seen: Arc<Mutex<Seen>>,
}

/// The last time that was read from the database.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The time without the shift.
    real: DateTime<Utc>,
    at: Instant,
    shift_ms: i64,
    /// The shift known from notifications at that time. If it has changed since, it is newer than
    /// `shift_ms`.
    told_ms: i64,
}

impl Clock {
    /// Creates a clock that uses this machine's time until it is [set](Self::set).
    pub fn new(shift_ms: watch::Receiver<i64>) -> Self {
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

    /// Sets the virtual time and its shift, as read from the database.
    pub fn set(&self, now: DateTime<Utc>, shift_ms: i64) {
        let seen = Seen {
            real: now - milliseconds(shift_ms),
            at: Instant::now(),
            shift_ms,
            told_ms: *self.shift_ms.borrow(),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Returns approximately what `conductor.now()` would; exact decisions are made in the
    /// database.
    pub fn now(&self) -> DateTime<Utc> {
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

    /// Returns the deadline `duration` from now, by the running clock and the shifts of tests.
    pub fn deadline(&self, duration: Duration) -> Deadline {
        Deadline::new(self.shift_ms.clone(), duration)
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
        // The query sees the shift before the notification arrives.
        clock.set(base + day, day.num_milliseconds());
        assert!(near(clock.now(), base + day));
        teller.send_replace(day.num_milliseconds());
        assert!(near(clock.now(), base + day));
        // The notification arrives before the next query.
        teller.send_replace(2 * day.num_milliseconds());
        assert!(near(clock.now(), base + day * 2));
        clock.set(base + day * 2, 2 * day.num_milliseconds());
        assert!(near(clock.now(), base + day * 2));
    }
}
