use std::time::{Duration, Instant};

/// The pauses between tries while the database is unavailable.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// How the database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The last round trip succeeded.
    Fine,
    /// This many have failed, one after the other; nothing is sent before this time.
    BackingOff { faults: usize, until: Instant },
}

impl Link {
    pub(super) fn succeeded(&mut self) {
        *self = Self::Fine;
    }

    /// Notes a fault, and returns when the next round trip may be sent.
    pub(super) fn failed(&mut self, now: Instant) -> Instant {
        let faults = match *self {
            Self::Fine => 0,
            Self::BackingOff { faults, .. } => faults,
        };
        let until = now + PAUSES[faults.min(PAUSES.len() - 1)];
        *self = Self::BackingOff {
            faults: faults + 1,
            until,
        };
        until
    }

    /// Returns whether something may be sent.
    pub(super) fn is_open(self, now: Instant) -> bool {
        self.not_before(now) <= now
    }

    /// Returns this time, or when something may be sent if that is later.
    pub(super) fn not_before(self, at: Instant) -> Instant {
        match self {
            Self::Fine => at,
            Self::BackingOff { until, .. } => at.max(until),
        }
    }

    pub(super) fn has_failed(self) -> bool {
        self != Self::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_and_a_success_ends_them() {
        let now = Instant::now();
        let mut link = Link::Fine;
        for pause in PAUSES.into_iter().chain([PAUSES[3]]) {
            assert_eq!(link.failed(now), now + pause);
            assert!(!link.is_open(now) && link.is_open(now + pause));
        }
        link.succeeded();
        assert!(link.is_open(now));
        assert_eq!(link.failed(now), now + PAUSES[0]);
    }
}
