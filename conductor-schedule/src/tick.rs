//! Computes the ticks of a rule.

use chrono::{DateTime, Datelike, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::clock::{self, Fold};
use crate::cron::Cron;

const LAST_SECOND: NaiveTime = match NaiveTime::from_hms_opt(23, 59, 59) {
    Some(time) => time,
    None => NaiveTime::MIN,
};
const SECOND: TimeDelta = TimeDelta::seconds(1);

/// The years that rules cover.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2100;

impl Cron {
    /// Returns the first tick after an instant; `None` if the rule has no further one.
    pub fn next_after(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        if after.year() > *YEARS.end() {
            return None;
        }
        // Starts before the epoch, for zones behind UTC.
        let after = after.max(DateTime::UNIX_EPOCH - TimeDelta::days(2));
        // Ticks are at whole seconds, so there is none between the start of the second and `after`.
        let after = DateTime::from_timestamp(after.timestamp(), 0)?;
        match self.beats() {
            true => self.next_beat(after, zone),
            false => self.next_reached(after, zone),
        }
    }

    /// Returns the next instant at which the clock first shows a time of the rule, or passes it.
    fn next_reached(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let reached = match Fold::around(after, zone) {
            // The second pass: the first pass has reached all times up to the end of the fold.
            Some(fold) if after >= fold.turn => fold.end - SECOND,
            _ => clock::shown(after, zone),
        };
        clock::reached(self.next_local(reached)?, zone)
    }

    /// Returns the next instant at which the clock shows a time of the rule.
    fn next_beat(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let shown = clock::shown(after, zone);
        let Some(fold) = Fold::around(after, zone) else {
            return self.first_shown(shown, zone);
        };
        let ahead = shown - after.naive_utc();
        let next = self.next_local(shown)?;
        if next < fold.end {
            return Some((next - ahead).and_utc());
        }
        if after >= fold.turn {
            return self.first_shown(fold.end - SECOND, zone);
        }
        // The clock is set back before it shows the next time.
        let next = self.next_local(fold.start - SECOND)?;
        if next >= fold.end {
            return self.first_shown(fold.end - SECOND, zone);
        }
        Some(fold.turn + (next - fold.start))
    }

    /// Returns the instant of the next time of the rule that the clock does not skip.
    fn first_shown(&self, mut local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
        loop {
            let next = self.next_local(local)?;
            let at = clock::reached(next, zone)?;
            let shown = clock::shown(at, zone);
            if shown == next {
                return Some(at);
            }
            // The time is in a gap; the clock continues at its end.
            local = shown - SECOND;
        }
    }

    /// Returns the next time of the rule on a clock without daylight saving.
    pub(crate) fn next_local(&self, mut after: NaiveDateTime) -> Option<NaiveDateTime> {
        loop {
            let next = self.schedule.after(&after.and_utc()).next()?.naive_utc();
            if self.has_day(next.date()) {
                return Some(next);
            }
            // Skips all times of a day that the rule does not include.
            after = next.date().and_time(LAST_SECOND);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, Instant};

    use chrono_tz::{America, Asia, Australia, Europe, Pacific};

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Returns the ticks after an instant, in local time.
    fn ticks(rule: &str, zone: Tz, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(rule).unwrap();
        let first = cron.next_after(utc(after), zone);
        std::iter::successors(first, |tick| cron.next_after(*tick, zone))
            .take(count)
            .map(|tick| {
                tick.with_timezone(&zone)
                    .format("%d %H:%M:%S%:z")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn a_time_that_does_not_exist_comes_at_the_end_of_the_gap() {
        assert_eq!(
            ticks("30 2 * * *", Europe::Berlin, "2026-03-28T00:00:00Z", 3),
            [
                "28 02:30:00+01:00",
                "29 03:00:00+02:00",
                "30 02:30:00+02:00"
            ]
        );
        assert_eq!(
            ticks("*/20 2,3 * * *", Europe::Berlin, "2026-03-28T12:00:00Z", 4),
            [
                "29 03:00:00+02:00",
                "29 03:20:00+02:00",
                "29 03:40:00+02:00",
                "30 02:00:00+02:00"
            ]
        );
        assert_eq!(
            ticks("0 12 * * *", Pacific::Apia, "2011-12-29T00:00:00Z", 3),
            [
                "29 12:00:00-10:00",
                "31 00:00:00+14:00",
                "31 12:00:00+14:00"
            ]
        );
    }

    #[test]
    fn a_time_that_comes_twice_counts_at_the_first() {
        assert_eq!(
            ticks("30 1 * * *", America::New_York, "2026-10-31T12:00:00Z", 2),
            ["01 01:30:00-04:00", "02 01:30:00-05:00"]
        );
        // The instant is in the second pass.
        assert_eq!(
            ticks("*/30 1 * * *", America::New_York, "2026-11-01T06:10:00Z", 1),
            ["02 01:00:00-05:00"]
        );
        assert_eq!(
            ticks(
                "0,45 1,2 * * *",
                Australia::Lord_Howe,
                "2026-04-04T13:30:00Z",
                4
            ),
            [
                "05 01:00:00+11:00",
                "05 01:45:00+11:00",
                "05 02:00:00+10:30",
                "05 02:45:00+10:30"
            ]
        );
    }

    #[test]
    fn a_beat_goes_on_in_real_time() {
        assert_eq!(
            ticks("*/30 * * * *", Europe::Berlin, "2026-03-29T00:00:00Z", 3),
            [
                "29 01:30:00+01:00",
                "29 03:00:00+02:00",
                "29 03:30:00+02:00"
            ]
        );
        assert_eq!(
            ticks("*/30 * * * *", Europe::Berlin, "2026-10-25T00:00:00Z", 4),
            [
                "25 02:30:00+02:00",
                "25 02:00:00+01:00",
                "25 02:30:00+01:00",
                "25 03:00:00+01:00"
            ]
        );
        // A fold that contains no time of the rule: the ticks are before and after it.
        assert_eq!(
            ticks(
                "15 * * * *",
                Australia::Lord_Howe,
                "2026-04-04T14:10:00Z",
                2
            ),
            ["05 01:15:00+11:00", "05 02:15:00+10:30"]
        );
        assert_eq!(
            ticks(
                "15 * * * *",
                Australia::Lord_Howe,
                "2026-04-04T14:40:00Z",
                1
            ),
            ["05 02:15:00+10:30"]
        );
    }

    #[test]
    fn the_last_day_of_a_month_is_that_of_its_length() {
        let days = |rule, after, count| -> Vec<String> {
            let cron = Cron::parse(rule).unwrap();
            let first = cron.next_after(utc(after), Tz::UTC);
            std::iter::successors(first, |tick| cron.next_after(*tick, Tz::UTC))
                .take(count)
                .map(|tick| tick.format("%Y-%m-%d %H:%M").to_string())
                .collect()
        };
        for rule in ["0 6 L * *", "0 0 6 l * ?", "0 0 6 L * * *"] {
            assert_eq!(
                days(rule, "2027-12-31T05:00:00Z", 5),
                [
                    "2027-12-31 06:00",
                    "2028-01-31 06:00",
                    "2028-02-29 06:00",
                    "2028-03-31 06:00",
                    "2028-04-30 06:00"
                ]
            );
        }
        assert_eq!(
            days("0 6 L 2 *", "2027-01-01T00:00:00Z", 2),
            ["2027-02-28 06:00", "2028-02-29 06:00"]
        );
        // 2100 is not a leap year.
        assert_eq!(
            days("0 6 L 2 *", "2100-01-01T00:00:00Z", 2),
            ["2100-02-28 06:00"]
        );
        assert_eq!(
            days("0 6 15,30,L * *", "2027-01-16T00:00:00Z", 6),
            [
                "2027-01-30 06:00",
                "2027-01-31 06:00",
                "2027-02-15 06:00",
                "2027-02-28 06:00",
                "2027-03-15 06:00",
                "2027-03-30 06:00"
            ]
        );
        // Both day fields must match.
        assert_eq!(
            days("0 6 L * Fri", "2027-01-01T00:00:00Z", 2),
            ["2027-04-30 06:00", "2027-12-31 06:00"]
        );
    }

    #[test]
    fn the_last_day_of_a_month_may_be_one_of_a_changed_clock() {
        assert_eq!(
            ticks("30 2 L 3 *", Europe::Berlin, "2030-03-01T00:00:00Z", 1),
            ["31 03:00:00+02:00"]
        );
        assert_eq!(
            ticks("30 2 L 10 *", Europe::Berlin, "2027-10-01T00:00:00Z", 1),
            ["31 02:30:00+02:00"]
        );
        assert_eq!(
            ticks("30 * L 10 *", Europe::Berlin, "2027-10-31T00:00:00Z", 3),
            [
                "31 02:30:00+02:00",
                "31 02:30:00+01:00",
                "31 03:30:00+01:00"
            ]
        );
        // In zones ahead of and behind UTC, the last day begins at another instant.
        assert_eq!(
            ticks("0 0 L * *", Pacific::Kiritimati, "2028-02-28T09:59:59Z", 1),
            ["29 00:00:00+14:00"]
        );
        assert_eq!(
            ticks("0 23 L * *", Pacific::Honolulu, "2028-03-01T08:00:00Z", 1),
            ["29 23:00:00-10:00"]
        );
    }

    #[test]
    fn rare_dates_are_found() {
        assert_eq!(
            ticks("0 0 29 2 *", Tz::UTC, "2096-03-01T00:00:00Z", 1),
            [""; 0]
        );
        assert_eq!(
            ticks("0 0 29 2 Mon", Asia::Kathmandu, "2026-01-01T00:00:00Z", 1),
            ["29 00:00:00+05:45"]
        );
        let cron = Cron::parse("0 0 0 29 2 Mon 2100").map_err(|error| error.to_string());
        assert!(cron.is_err_and(|error| error.contains("never comes")));
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        let cron = Cron::parse("@yearly").unwrap();
        for zone in [Tz::UTC, Pacific::Apia, Pacific::Honolulu] {
            assert_eq!(cron.next_after(DateTime::<Utc>::MAX_UTC, zone), None);
            assert!(cron.next_after(DateTime::<Utc>::MIN_UTC, zone).is_some());
            assert_eq!(cron.next_after(utc("2100-12-31T23:59:59.5Z"), zone), None);
        }
    }

    #[test]
    fn fractions_of_a_second_are_seen() {
        let cron = Cron::parse("* * * * * *").unwrap();
        let next = |after: &str| cron.next_after(utc(after), Tz::UTC);
        assert_eq!(
            next("2026-01-01T00:00:00Z"),
            Some(utc("2026-01-01T00:00:01Z"))
        );
        assert_eq!(
            next("2026-01-01T00:00:00.999Z"),
            Some(utc("2026-01-01T00:00:01Z"))
        );
        assert_eq!(
            next("1969-12-31T23:59:59.5Z"),
            Some(utc("1970-01-01T00:00:00Z"))
        );
    }

    #[test]
    fn ten_thousand_ticks_take_no_time() {
        for rule in [
            "* * * * * *",
            "0 0 29 2 *",
            "0 0 0 13 * Fri",
            "* * * L * *",
            "0 0 0 L 2 Sun 2090-2100",
            "0 59 23 31 12 Sun 2090-2100",
        ] {
            let cron = Cron::parse(rule).unwrap();
            let start = Instant::now();
            for second in 0..10_000 {
                let after = utc("2026-10-25T00:00:00Z") + TimeDelta::seconds(second);
                assert!(cron.next_after(after, Europe::Berlin).is_some());
            }
            // This takes milliseconds in an optimised build; stepping through time would take minutes.
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{rule} {:?}",
                start.elapsed()
            );
        }
    }
}
