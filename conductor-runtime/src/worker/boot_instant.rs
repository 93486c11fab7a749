use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// A moment by a clock that continues while the machine sleeps, as the lease does; the clock of `Instant` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootInstant(Duration);

impl BootInstant {
    pub(crate) fn now() -> Self {
        // Every system that this compiles for has this clock.
        Self(clock_gettime(CLOCK).map(Duration::from).unwrap_or_default())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn it_goes_on_at_least_as_the_clock_of_instant_does() {
        // This order, because the thread may lose its processor in between.
        let boot = BootInstant::now();
        let instant = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let passed = instant.elapsed();
        // Each counts whole nanoseconds.
        assert!(boot.elapsed() + Duration::from_micros(1) >= passed);
        assert!(boot.elapsed() >= Duration::from_millis(20));
        assert_eq!(boot.since(boot + Duration::from_secs(1)), Duration::ZERO);
        assert!(boot + Duration::from_secs(1) > boot);
    }
}
