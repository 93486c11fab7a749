//! Conversions between instants and the local time of a zone.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

/// Returns the local time at an instant.
pub(crate) fn shown(at: DateTime<Utc>, zone: Tz) -> NaiveDateTime {
    at.with_timezone(&zone).naive_local()
}

/// Returns the first instant at which the clock shows this local time or a later one: the first
/// occurrence of a time that occurs twice, the end of the gap for a time that is skipped.
pub(crate) fn reached(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => Some(at.to_utc()),
        MappedLocalTime::None => GapInfo::new(&local, &zone)?.end.map(|end| end.to_utc()),
    }
}

/// A range of local time that occurs twice because the clock is set back.
pub(crate) struct Fold {
    /// The instant at which the clock is set back.
    pub(crate) turn: DateTime<Utc>,
    /// The local time to which it is set back: the first one that occurs twice.
    pub(crate) start: NaiveDateTime,
    /// The local time from which it is set back: the first one after those that occur twice.
    pub(crate) end: NaiveDateTime,
}

impl Fold {
    /// Returns the fold that contains an instant, in its first or its second pass.
    pub(crate) fn around(at: DateTime<Utc>, zone: Tz) -> Option<Self> {
        let local = shown(at, zone);
        let MappedLocalTime::Ambiguous(first, second) = zone.from_local_datetime(&local) else {
            return None;
        };
        let (first, second) = (first.to_utc(), second.to_utc());
        let ahead = local - first.naive_utc();
        let (mut before, mut after) = (first, second);
        while after - before > TimeDelta::seconds(1) {
            let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
            match shown(middle, zone) - middle.naive_utc() == ahead {
                true => before = middle,
                false => after = middle,
            }
        }
        Some(Self {
            turn: after,
            start: shown(after, zone),
            end: after.naive_utc() + ahead,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono_tz::{America, Europe, Pacific};

    use super::*;

    fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_is_reached_once() {
        for (zone, shows, instant) in [
            (
                Europe::Berlin,
                "2026-03-29T01:59:59",
                "2026-03-29T00:59:59Z",
            ),
            (
                Europe::Berlin,
                "2026-03-29T02:00:00",
                "2026-03-29T01:00:00Z",
            ),
            (
                Europe::Berlin,
                "2026-03-29T02:30:00",
                "2026-03-29T01:00:00Z",
            ),
            (
                Europe::Berlin,
                "2026-03-29T03:00:00",
                "2026-03-29T01:00:00Z",
            ),
            (
                Europe::Berlin,
                "2026-10-25T02:30:00",
                "2026-10-25T00:30:00Z",
            ),
            (
                Europe::Berlin,
                "2026-10-25T03:00:00",
                "2026-10-25T02:00:00Z",
            ),
            (Pacific::Apia, "2011-12-30T12:00:00", "2011-12-30T10:00:00Z"),
        ] {
            assert_eq!(reached(local(shows), zone), Some(utc(instant)), "{shows}");
        }
    }

    #[test]
    fn both_passes_know_their_fold() {
        for at in ["2026-11-01T05:00:00Z", "2026-11-01T06:59:59Z"] {
            let fold = Fold::around(utc(at), America::New_York).unwrap();
            assert_eq!(fold.turn, utc("2026-11-01T06:00:00Z"));
            assert_eq!(fold.start, local("2026-11-01T01:00:00"));
            assert_eq!(fold.end, local("2026-11-01T02:00:00"));
        }
        for at in ["2026-11-01T04:59:59Z", "2026-11-01T07:00:00Z"] {
            assert!(Fold::around(utc(at), America::New_York).is_none());
        }
    }
}
