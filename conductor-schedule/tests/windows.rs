//! Random windows against a model that walks through time minute by minute.

#![allow(clippy::unwrap_used, missing_docs)]

mod model;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use conductor_schedule::{Tz, Window};
use proptest::prelude::*;
use proptest::sample::subsequence;

use model::{change, utc, walk};

/// Whether a window is open, minute by minute.
fn model(
    opens: u32,
    closes: u32,
    days: &[u32],
    zone: Tz,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Vec<(DateTime<Utc>, bool)> {
    let mut open = false;
    let mut states = Vec::new();
    // A window that is open at `from` opened in the nine days before.
    let start = from - TimeDelta::days(9);
    walk(zone, start, to, TimeDelta::minutes(1), |at, _, reached| {
        for time in reached {
            let minute = time.hour() * 60 + time.minute();
            let day = time.weekday().num_days_from_sunday();
            if minute == closes % 1440 {
                open = false;
            }
            if minute == opens && days.contains(&day) {
                open = true;
            }
        }
        if at >= from {
            states.push((at, open));
        }
    });
    states
}

fn compare(opens: u32, closes: u32, days: &[u32], zone: Tz, from: DateTime<Utc>) {
    let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
    let text = format!("{}-{}", clock(opens), clock(closes));
    let names: Vec<&str> = days
        .iter()
        .map(|day| ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][*day as usize])
        .collect();
    let names = names.join(",");
    let Ok(window) = Window::parse(&text, Some(&names), zone) else {
        assert!(
            opens == closes || (closes - opens == 1440 && days.len() == 7),
            "{text}"
        );
        return;
    };
    let states = model(opens, closes, days, zone, from, from + TimeDelta::days(10));
    let about = format!("{text} {names} in {zone} from {from}");
    // The flips are checked to the instant below.
    for (at, open) in states.iter().step_by(7) {
        assert_eq!(window.is_open(*at), *open, "{about} at {at}");
    }
    let flips = |to_open: bool| {
        let pairs = states.windows(2).filter(move |pair| pair[0].1 != pair[1].1);
        pairs
            .map(|pair| pair[1])
            .filter(move |(_, open)| *open == to_open)
            .map(|(at, _)| at)
    };
    // Of one that is open, the model knows the opening where it has seen it.
    for (at, open) in states.iter().step_by(61) {
        let since = window.open_since(*at);
        assert_eq!(since.is_some(), *open, "{about} at {at}");
        let Some(since) = since else { continue };
        assert!(since <= *at && window.is_open(since), "{about} at {at}");
        assert!(
            !window.is_open(since - TimeDelta::milliseconds(1)),
            "{about} at {at}"
        );
        if let Some(expected) = flips(true).rfind(|flip| flip <= at) {
            assert_eq!(since, expected, "{about} at {at}");
        }
    }
    // Each probe lies after the first minute, whose own flip the model cannot see.
    for (at, _) in states.iter().skip(1).step_by(61) {
        let opening = window.opens_after(*at);
        assert!(
            opening >= *at && window.is_open(opening),
            "{about} after {at}"
        );
        assert!(
            !window.is_open(opening - TimeDelta::milliseconds(1)),
            "{about} after {at}"
        );
        if let Some(expected) = flips(true).find(|flip| flip >= at) {
            assert_eq!(opening, expected, "{about} after {at}");
        }
        let closing = window.closes_after(*at);
        assert!(
            closing > *at && !window.is_open(closing),
            "{about} after {at}"
        );
        assert!(
            window.is_open(closing - TimeDelta::milliseconds(1)),
            "{about} after {at}"
        );
        if let Some(expected) = flips(false).find(|flip| flip > at) {
            assert_eq!(closing, expected, "{about} after {at}");
        }
    }
}

/// Minutes of the night, when clocks change, or of any hour.
fn minute() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0..8u32).prop_map(|half| half * 30),
        (0..5u32).prop_map(|n| n * 60),
        0..1440u32
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn around_a_change(
        opens in minute(),
        closes in prop_oneof![4 => minute(), 1 => Just(1440)],
        days in subsequence(vec![0, 1, 2, 3, 4, 5, 6], 1..=7),
        index in 0..10_000usize,
        hours in 0..120i64,
    ) {
        let (zone, change) = change(index);
        compare(opens, closes, &days, zone, change - TimeDelta::hours(hours));
    }
}

#[test]
fn a_day_that_was_skipped() {
    let week = [0, 1, 2, 3, 4, 5, 6];
    let from = utc("2011-12-28T00:00:00Z");
    for (opens, closes) in [
        (22 * 60, 6 * 60),
        (9 * 60, 17 * 60),
        (0, 23 * 60),
        (12 * 60, 1440),
    ] {
        compare(opens, closes, &week, Tz::Pacific__Apia, from);
        // The Friday alone.
        compare(opens, closes, &[5], Tz::Pacific__Apia, from);
    }
    compare(0, 1440, &[4, 5, 6], Tz::Pacific__Apia, from);
}
