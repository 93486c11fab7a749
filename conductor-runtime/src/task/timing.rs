//! When a task runs by itself, and when it may run, as its attribute declares it.

use std::fmt;

use conductor_schedule::{Missed, Overlap};

use super::{CronTick, FromTick, Task};
use crate::codec;

/// A schedule that a task declares with `cron`. Its texts were checked by the macro.
#[derive(Clone, Copy)]
pub struct CronDefinition {
    /// Unique in the task.
    pub name: &'static str,
    /// The rule, as `conductor_schedule::Cron` reads it.
    pub cron: &'static str,
    /// The name of the zone whose clock counts. Default `UTC`.
    pub timezone: &'static str,
    /// What becomes of ticks that came while nothing could run them.
    pub missed: Missed,
    /// What a tick does while the execution of the tick before has not ended.
    pub overlap: Overlap,
    /// The payload of a tick's execution, encoded.
    pub payload: fn(&CronTick) -> anyhow::Result<String>,
}

impl CronDefinition {
    /// A schedule whose payload comes from the tick.
    pub const fn of<T: Task>(name: &'static str, cron: &'static str) -> Self
    where
        T::Payload: FromTick,
    {
        Self::with_payload(name, cron, |tick| {
            Self::encode::<T>(&T::Payload::from_tick(tick.clone()))
        })
    }

    /// A schedule whose payload is made by a function, which encodes it with
    /// [`CronDefinition::encode`].
    pub const fn with_payload(
        name: &'static str,
        cron: &'static str,
        payload: fn(&CronTick) -> anyhow::Result<String>,
    ) -> Self {
        Self {
            name,
            cron,
            timezone: "UTC",
            missed: Missed::Once,
            overlap: Overlap::Allow,
            payload,
        }
    }

    /// Encodes a payload of the task, or says why it cannot be stored.
    pub fn encode<T: Task>(payload: &T::Payload) -> anyhow::Result<String> {
        Ok(codec::encode_payload::<T>(payload)?)
    }

    /// Sets the zone.
    #[must_use]
    pub const fn timezone(mut self, timezone: &'static str) -> Self {
        self.timezone = timezone;
        self
    }

    /// Sets what becomes of missed ticks.
    #[must_use]
    pub const fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Sets what becomes of overlapping ticks.
    #[must_use]
    pub const fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }
}

impl fmt::Debug for CronDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CronDefinition")
            .field("name", &self.name)
            .field("cron", &self.cron)
            .field("timezone", &self.timezone)
            .field("missed", &self.missed)
            .field("overlap", &self.overlap)
            .finish_non_exhaustive()
    }
}

/// The hours in which a task may run, declared with `window`. Its texts were checked by the macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowDefinition {
    /// The times, as `conductor_schedule::Window` reads them.
    pub times: &'static str,
    /// The days on which it opens; all where none are given.
    pub days: Option<&'static str>,
    /// The name of the zone whose clock counts. Default `UTC`.
    pub timezone: &'static str,
}

impl WindowDefinition {
    /// A window of every day.
    pub const fn new(times: &'static str) -> Self {
        Self {
            times,
            days: None,
            timezone: "UTC",
        }
    }

    /// Sets the days on which it opens.
    #[must_use]
    pub const fn days(mut self, days: &'static str) -> Self {
        self.days = Some(days);
        self
    }

    /// Sets the zone.
    #[must_use]
    pub const fn timezone(mut self, timezone: &'static str) -> Self {
        self.timezone = timezone;
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Ticking;

    impl Task for Ticking {
        type Payload = CronTick;
        type Output = ();
        const NAME: &'static str = "ticking";
    }

    #[test]
    fn the_payload_comes_from_the_tick() {
        const CRON: CronDefinition = CronDefinition::of::<Ticking>("nightly", "@daily");
        let tick = CronTick::new("nightly", "2026-01-01T00:00:00Z".parse().unwrap());
        let json = (CRON.payload)(&tick).unwrap();
        assert_eq!(
            json,
            r#"{"schedule":"nightly","scheduled_at":"2026-01-01T00:00:00Z"}"#
        );
        assert_eq!(serde_json::from_str::<CronTick>(&json).unwrap(), tick);
    }
}
