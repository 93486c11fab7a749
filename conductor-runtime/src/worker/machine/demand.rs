use std::time::Duration;

/// The pauses before further queries after going idle: a concurrent invoke may not have seen the idle flag.
const LOOKS_AGAIN: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
];

/// How often the worker queries at least, in case notifications are lost.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// What the worker knows of what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// More may be due than was claimed.
    More,
    /// Nothing is known to be due. The next request tells the database that this worker sleeps if nothing is returned.
    /// `looks` is the number of such requests that have returned nothing since something came.
    Looking { looks: usize },
    /// Nothing was due, and the database knows that this worker sleeps and wants to be woken.
    Idle { looks: usize },
}

impl Demand {
    /// Something may be due: it is asked for at once.
    pub(super) fn look(&mut self) {
        if *self != Self::More {
            *self = Self::Looking { looks: 0 };
        }
    }

    /// It is asked for once more, in case a notification was lost.
    pub(super) fn look_again(&mut self) {
        if let Self::Idle { looks } = *self {
            *self = Self::Looking { looks };
        }
    }

    /// A claim returned something, and perhaps not all that is due.
    pub(super) fn came(&mut self, more: bool) {
        *self = match more {
            true => Self::More,
            false => Self::Looking { looks: 0 },
        };
    }

    /// A claim returned nothing. Returns how long the worker sleeps at most, if the claim said that it would.
    pub(super) fn nothing_came(&mut self, was_to_sleep: bool) -> Option<Duration> {
        let looks = match *self {
            Self::More => 0,
            Self::Looking { looks } | Self::Idle { looks } => looks,
        };
        if !was_to_sleep {
            *self = Self::Looking { looks };
            return None;
        }
        *self = Self::Idle { looks: looks + 1 };
        Some(LOOKS_AGAIN.get(looks).copied().unwrap_or(POLL))
    }

    /// Returns whether a claim has a reason.
    pub(super) fn asks(self) -> bool {
        !matches!(self, Self::Idle { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_until_something_comes() {
        let mut demand = Demand::More;
        // Something may have been due, so the worker did not say that it would sleep.
        assert_eq!(demand.nothing_came(false), None);
        for pause in LOOKS_AGAIN {
            assert!(demand.asks());
            assert_eq!(demand.nothing_came(true), Some(pause));
            assert!(!demand.asks());
            demand.look_again();
        }
        assert_eq!(demand.nothing_came(true), Some(POLL));
        demand.came(false);
        assert_eq!(demand.nothing_came(true), Some(LOOKS_AGAIN[0]));
    }

    #[test]
    fn a_wake_up_is_not_lost_in_the_answer_that_it_meets() {
        let mut demand = Demand::Looking { looks: 3 };
        demand.look();
        // The claim may have looked before what the wake-up is about was there.
        assert_eq!(demand.nothing_came(true), Some(LOOKS_AGAIN[0]));
        demand = Demand::More;
        demand.look();
        assert_eq!(demand, Demand::More);
    }
}
