//! The ticks of random rules against a model that walks through time and looks at the clock.

#![allow(clippy::unwrap_used, missing_docs)]

mod model;

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Timelike, Utc};
use conductor_schedule::{Cron, Tz};
use proptest::prelude::*;
use proptest::sample::subsequence;

use model::{ZONES, change, utc, walk};

/// The last day of a month, among its days.
const LAST: u32 = 32;

/// A rule as plain sets of numbers; none stands for all.
#[derive(Debug, Clone)]
struct Rule {
    seconds: Option<BTreeSet<u32>>,
    minutes: Option<BTreeSet<u32>>,
    hours: Option<BTreeSet<u32>>,
    /// [`LAST`] is the last one of the month.
    days: Option<BTreeSet<u32>>,
    months: Option<BTreeSet<u32>>,
    /// From Sunday, which is 0.
    weekdays: Option<BTreeSet<u32>>,
}

impl Rule {
    fn text(&self) -> String {
        let list = |set: &Option<BTreeSet<u32>>, show: &dyn Fn(u32) -> String| match set {
            None => "*".to_owned(),
            Some(set) => {
                let shown: Vec<String> = set.iter().map(|n| show(*n)).collect();
                shown.join(",")
            }
        };
        let number = |n: u32| n.to_string();
        let day = |n: u32| {
            if n == LAST {
                "L".to_owned()
            } else {
                n.to_string()
            }
        };
        let name =
            |n: u32| ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][n as usize].to_owned();
        [
            list(&self.seconds, &number),
            list(&self.minutes, &number),
            list(&self.hours, &number),
            list(&self.days, &day),
            list(&self.months, &number),
            list(&self.weekdays, &name),
        ]
        .join(" ")
    }

    fn fits(&self, time: NaiveDateTime) -> bool {
        let has =
            |set: &Option<BTreeSet<u32>>, n: u32| set.as_ref().is_none_or(|set| set.contains(&n));
        has(&self.seconds, time.second())
            && has(&self.minutes, time.minute())
            && has(&self.hours, time.hour())
            && (has(&self.days, time.day()) || has(&self.days, LAST) && is_last(time))
            && has(&self.months, time.month())
            && has(&self.weekdays, time.weekday().num_days_from_sunday())
    }

    /// All ticks in a stretch of time, its start left out.
    fn ticks(&self, zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let step = match &self.seconds {
            Some(seconds) if seconds.iter().all(|second| *second == 0) => TimeDelta::minutes(1),
            _ => TimeDelta::seconds(1),
        };
        let every_hour = self.hours.as_ref().is_none_or(|hours| hours.len() == 24);
        let mut ticks = Vec::new();
        walk(zone, from, to, step, |at, shown, reached| {
            let ticks_now = match every_hour {
                true => self.fits(shown),
                false => reached.iter().any(|time| self.fits(*time)),
            };
            if ticks_now && at > from {
                ticks.push(at);
            }
        });
        ticks
    }
}

fn is_last(time: NaiveDateTime) -> bool {
    (time + TimeDelta::days(1)).day() == 1
}

/// Compares all ticks of a stretch, and those after instants that are no ticks.
fn compare(rule: &Rule, zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) {
    let (text, expected) = (rule.text(), rule.ticks(zone, from, to));
    let Ok(cron) = Cron::parse(&text) else {
        // A date that never comes.
        assert!(expected.is_empty(), "{text} is refused");
        return;
    };
    let mut found = Vec::new();
    let mut at = from;
    while let Some(next) = cron.next_after(at, zone).filter(|next| *next <= to) {
        assert!(
            next > at,
            "{text} in {zone}: {next} does not come after {at}"
        );
        found.push(next);
        at = next;
    }
    assert_eq!(found, expected, "{text} in {zone} from {from}");
    let length = (to - from).num_milliseconds();
    for part in 0..40 {
        let at = from + TimeDelta::milliseconds(length * part / 40 + part * 977);
        let expected = expected.iter().find(|tick| **tick > at);
        let next = cron.next_after(at, zone).filter(|next| *next <= to);
        assert_eq!(next.as_ref(), expected, "{text} in {zone} after {at}");
    }
}

fn numbers(min: u32, max: u32, most: usize) -> impl Strategy<Value = Option<BTreeSet<u32>>> {
    let all: Vec<u32> = (min..=max).collect();
    let some = subsequence(all, 1..=most).prop_map(|chosen| Some(chosen.into_iter().collect()));
    prop_oneof![Just(None), some]
}

/// Hours around midnight, where clocks change, and sometimes all.
fn hours() -> impl Strategy<Value = Option<BTreeSet<u32>>> {
    let night = subsequence(vec![0, 1, 2, 3, 4, 22, 23], 1..=4);
    prop_oneof![
        2 => night.prop_map(|chosen| Some(chosen.into_iter().collect())),
        1 => Just(None),
        1 => Just(Some((0..24).collect())),
        1 => numbers(0, 23, 6),
    ]
}

fn any_day() -> impl Strategy<Value = Option<BTreeSet<u32>>> {
    prop_oneof![3 => Just(None), 1 => numbers(1, 31, 20), 1 => numbers(1, LAST, 8)]
}

prop_compose! {
    fn rules(whole_minutes: bool)(
        seconds in numbers(0, 59, 4),
        minutes in numbers(0, 59, 5),
        hours in hours(),
        days in any_day(),
        months in prop_oneof![4 => Just(None), 1 => numbers(1, 12, 6)],
        weekdays in prop_oneof![3 => Just(None), 1 => numbers(0, 6, 5)],
    ) -> Rule {
        let seconds = if whole_minutes { Some([0].into()) } else { seconds };
        Rule { seconds, minutes, hours, days, months, weekdays }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn days_around_a_change(rule in rules(true), index in 0..10_000usize, hours in 0..60i64) {
        let (zone, change) = change(index);
        let from = change - TimeDelta::hours(hours);
        compare(&rule, zone, from, from + TimeDelta::days(3));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 50,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn seconds_around_a_change(rule in rules(false), index in 0..10_000usize, minutes in 0..240i64) {
        let (zone, change) = change(index);
        let from = change - TimeDelta::minutes(minutes);
        compare(&rule, zone, from, from + TimeDelta::hours(4));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn over_years(rule in rules(true), zone in 0..ZONES.len(), year in 2008..2030i32, hour in 0..24u32) {
        let mut rule = rule;
        // Some ticks a day, so that the years are what takes the time.
        rule.hours = Some([hour % 4, hour].into());
        rule.minutes = Some([hour * 2].into());
        let from = utc(&format!("{year}-01-01T00:00:00Z"));
        compare(&rule, ZONES[zone], from, from + TimeDelta::days(550));
    }
}

#[test]
fn a_day_that_was_skipped() {
    for (zone, from) in [
        (Tz::Pacific__Apia, utc("2011-12-29T00:00:00Z")),
        (Tz::Pacific__Kwajalein, utc("1993-08-19T00:00:00Z")),
    ] {
        for (hours, days) in [
            (Some([0, 9, 23].into()), None),
            (Some([9].into()), Some([21, 30].into())),
            (None, None),
            (None, Some([21, 30].into())),
        ] {
            let rule = Rule {
                seconds: Some([0].into()),
                minutes: Some([0, 30].into()),
                hours,
                days,
                months: None,
                weekdays: None,
            };
            compare(&rule, zone, from, from + TimeDelta::days(5));
        }
    }
}
