//! Schedules and windows, as a task's attribute declares them.

use std::fmt;

use conductor_schedule::{Cron, Missed, Overlap, Window, zone};

use super::{CronTick, FromTick, Task};
use crate::codec;

/// A schedule that a task declares with `cron`. The macro has checked its texts.
#[derive(Clone, Copy)]
pub struct CronDefinition {
    /// Its name, unique in the task.
    pub name: &'static str,
    /// The cron expression, as `conductor_schedule::Cron` parses it.
    pub cron: &'static str,
    /// The time zone of the expression. Default: `UTC`.
    pub timezone: &'static str,
    /// How to handle ticks that were due while no worker could run them.
    pub missed: Missed,
    /// What a tick does while the execution of the previous tick has not ended.
    pub overlap: Overlap,
    /// Returns the encoded payload for a tick.
    pub payload: fn(&CronTick) -> anyhow::Result<String>,
}

impl CronDefinition {
    /// Declares a schedule whose payload is made from the tick.
    pub const fn of<T: Task>(name: &'static str, cron: &'static str) -> Self
    where
        T::Payload: FromTick,
    {
        Self::with_payload(name, cron, |tick| {
            Self::encode::<T>(&T::Payload::from_tick(tick.clone()))
        })
    }

    /// Declares a schedule whose payload is made by a function, which encodes it with
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

    /// Encodes a payload of the task, or returns why it cannot be stored.
    pub fn encode<T: Task>(payload: &T::Payload) -> anyhow::Result<String> {
        Ok(codec::encode_payload::<T>(payload)?)
    }

    /// Sets the time zone.
    #[must_use]
    pub const fn timezone(mut self, timezone: &'static str) -> Self {
        self.timezone = timezone;
        self
    }

    /// Sets how to handle missed ticks.
    #[must_use]
    pub const fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Sets how to handle overlapping ticks.
    #[must_use]
    pub const fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Returns an error if the rule, which the macro may not have checked, is invalid.
    pub(crate) fn check(&self) -> Result<(), String> {
        Cron::parse(self.cron).map_err(|error| error.to_string())?;
        zone(self.timezone).map_err(|error| error.to_string())?;
        Ok(())
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

/// When a task may run, declared with `window`. The macro has checked its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowDefinition {
    /// The times, as `conductor_schedule::Window` parses them.
    pub times: &'static str,
    /// The days on which it opens; every day if `None`.
    pub days: Option<&'static str>,
    /// The time zone of the window. Default: `UTC`.
    pub timezone: &'static str,
}

impl WindowDefinition {
    /// Declares a window that opens every day.
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

    /// Sets the time zone.
    #[must_use]
    pub const fn timezone(mut self, timezone: &'static str) -> Self {
        self.timezone = timezone;
        self
    }

    /// Parses the window, or returns why it is invalid.
    pub(crate) fn read(&self) -> Result<Window, String> {
        let zone = zone(self.timezone).map_err(|error| error.to_string())?;
        Window::parse(self.times, self.days, zone).map_err(|error| error.to_string())
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
