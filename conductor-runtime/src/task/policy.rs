use std::time::Duration;

use uuid::Uuid;

/// When failed attempts are retried.
///
/// The delay after failure `n` is `backoff_initial * 2^(n-1)`, at most `backoff_max`, varied at
/// random by up to the share `jitter` in either direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The number of attempts after which a failure is final. Default: 3.
    pub max_attempts: u32,
    /// The delay after the first failure. Default: 15 s.
    pub backoff_initial: Duration,
    /// The longest delay. Default: 2 h.
    pub backoff_max: Duration,
    /// The share by which delays vary, from 0 (none) to 1. Default: 0.1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Three attempts, delays from 15 s doubling up to 2 h, 10% jitter.
    pub const DEFAULT: Self = Self {
        max_attempts: 3,
        backoff_initial: Duration::from_secs(15),
        backoff_max: Duration::from_secs(2 * 60 * 60),
        jitter: 0.1,
    };

    /// Returns the default policy with this number of attempts.
    pub const fn attempts(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            ..Self::DEFAULT
        }
    }

    /// Sets the first and the longest delay.
    #[must_use]
    pub const fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff_initial = initial;
        self.backoff_max = max;
        self
    }

    /// Returns the delay after this many failures, for retries within the process. Delays between
    /// attempts of executions are computed in the database.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(31));
        let delay = self
            .backoff_initial
            .saturating_mul(doubled)
            .min(self.backoff_max);
        // The last bits of a UUIDv7 are random.
        let share = (Uuid::now_v7().as_u128() & 0xffff) as f64 / f64::from(0xffff_u16);
        delay.mul_f64(1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * share - 1.0))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How long finished executions are kept before they are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Of completed executions. Default: 7 days.
    pub completed: Duration,
    /// Of failed and cancelled executions. Default: 30 days.
    pub failed: Duration,
}

impl Keep {
    /// Completed executions 7 days, failed and cancelled ones 30 days.
    pub const DEFAULT: Self = Self {
        completed: Duration::from_secs(7 * 24 * 60 * 60),
        failed: Duration::from_secs(30 * 24 * 60 * 60),
    };
}

impl Default for Keep {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let policy = RetryPolicy {
            jitter: 0.0,
            ..RetryPolicy::attempts(9).backoff(second, 5 * second)
        };
        let delays: Vec<u64> = (1..6).map(|n| policy.delay(n).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        assert_eq!(policy.delay(u32::MAX), 5 * second);
        let jittered = RetryPolicy {
            jitter: 0.5,
            ..policy
        };
        for _ in 0..100 {
            let delay = jittered.delay(1).as_millis();
            assert!((500..=1500).contains(&delay), "{delay}");
        }
    }
}
