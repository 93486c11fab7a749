//! Clocks for the models: they only ask a zone what it shows, instant by instant.

use std::sync::LazyLock;

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use conductor_schedule::Tz;

pub(crate) const ZONES: [Tz; 10] = [
    Tz::UTC,
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Apia,
    Tz::Africa__Casablanca,
    Tz::Asia__Kathmandu,
    Tz::America__St_Johns,
    Tz::Asia__Beirut,
    Tz::Pacific__Chatham,
];

/// The instants, to the minute, at which a clock was put forward or back, from 2005 to 2036.
static CHANGES: LazyLock<Vec<(Tz, DateTime<Utc>)>> = LazyLock::new(|| {
    let mut changes = Vec::new();
    for zone in ZONES {
        let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        let mut at = utc("2005-01-01T00:00:00Z");
        while at < utc("2036-01-01T00:00:00Z") {
            let next = at + TimeDelta::hours(6);
            if offset(at) != offset(next) {
                let mut minutes = (1..=360).map(|minute| at + TimeDelta::minutes(minute));
                changes.extend(
                    minutes
                        .find(|m| offset(*m) != offset(at))
                        .map(|m| (zone, m)),
                );
            }
            at = next;
        }
    }
    changes
});

/// A change of some clock.
pub(crate) fn change(index: usize) -> (Tz, DateTime<Utc>) {
    CHANGES[index % CHANGES.len()]
}

pub(crate) fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// What the clock shows from instant to instant, with the times that it reaches for the first time.
pub(crate) fn walk(
    zone: Tz,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    step: TimeDelta,
    mut see: impl FnMut(DateTime<Utc>, NaiveDateTime, &[NaiveDateTime]),
) {
    let shown = |at: DateTime<Utc>| zone.from_utc_datetime(&at.naive_utc()).naive_local();
    // None of the clocks goes back by more than an hour.
    let mut at = from - TimeDelta::hours(2);
    let mut highest = shown(at);
    let mut reached = Vec::new();
    while at <= to {
        let now = shown(at);
        reached.clear();
        while highest < now {
            highest += step;
            reached.push(highest);
        }
        if at >= from {
            see(at, now, &reached);
        }
        at += step;
    }
}
