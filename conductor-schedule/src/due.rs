use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::{Cron, Missed};

/// The maximum count of skipped ticks.
pub const MOST_COUNTED: u64 = 1000;

/// The maximum delay of a tick under [`Missed::Skip`], unless the next tick is near.
const GRACE: TimeDelta = TimeDelta::seconds(5);

/// The ticks of a schedule that are due.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// The ticks that create one execution each, in order.
    pub run: Vec<DateTime<Utc>>,
    /// The next tick; it is due already if `limit` ended the list.
    pub next: Option<DateTime<Utc>>,
    /// The number of ticks that create no execution, counted up to [`MOST_COUNTED`].
    pub skipped: u64,
}

impl Due {
    /// Returns the ticks from `next_at` up to `now`, by the rule for missed ones. `limit` bounds the
    /// list under [`Missed::All`]; the next call returns the rest.
    ///
    /// The cost does not grow with the number of missed ticks.
    pub fn of(
        cron: &Cron,
        zone: Tz,
        missed: Missed,
        next_at: DateTime<Utc>,
        now: DateTime<Utc>,
        limit: usize,
    ) -> Self {
        if next_at > now {
            return Self {
                next: Some(next_at),
                ..Self::default()
            };
        }
        let after = |tick: DateTime<Utc>| cron.next_after(tick, zone);
        if missed == Missed::All {
            let mut ticks = std::iter::successors(Some(next_at), |tick| after(*tick)).peekable();
            let mut run = Vec::new();
            while run.len() < limit
                && let Some(tick) = ticks.next_if(|tick| *tick <= now)
            {
                run.push(tick);
            }
            return Self {
                run,
                next: ticks.next(),
                skipped: 0,
            };
        }
        let latest = latest(cron, zone, next_at, now);
        let next = after(latest);
        let grace = next.map_or(GRACE, |next| GRACE.min((next - latest) / 2));
        let runs = missed == Missed::Once || now - latest <= grace;
        let earlier = std::iter::successors(Some(next_at), |tick| after(*tick))
            .take_while(|tick| *tick < latest)
            .take(MOST_COUNTED as usize)
            .count() as u64;
        Self {
            run: if runs { vec![latest] } else { Vec::new() },
            next,
            skipped: (earlier + u64::from(!runs)).min(MOST_COUNTED),
        }
    }
}

/// Returns the latest tick up to `now`, by bisection.
fn latest(cron: &Cron, zone: Tz, first: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    let (mut tick, mut end) = (first, now);
    while end - tick >= TimeDelta::seconds(1) {
        let middle = tick + (end - tick) / 2;
        match cron.next_after(middle, zone) {
            Some(later) if later <= end => tick = later,
            _ => end = middle,
        }
    }
    tick
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ZONE: Tz = Tz::Europe__Berlin;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn due(rule: &str, missed: Missed, next_at: &str, now: &str) -> Due {
        let cron = Cron::parse(rule).unwrap();
        Due::of(&cron, ZONE, missed, utc(next_at), utc(now), 3)
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            let due = due(
                "@hourly",
                missed,
                "2026-01-01T10:00:00Z",
                "2026-01-01T09:59:59.999Z",
            );
            assert!(due.run.is_empty());
            assert_eq!(due.next, Some(utc("2026-01-01T10:00:00Z")));
        }
    }

    #[test]
    fn a_punctual_tick_runs_under_every_rule() {
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            for now in ["2026-01-01T10:00:00Z", "2026-01-01T10:00:05Z"] {
                let due = due("@hourly", missed, "2026-01-01T10:00:00Z", now);
                assert_eq!(due.run, [utc("2026-01-01T10:00:00Z")]);
                assert_eq!(due.next, Some(utc("2026-01-01T11:00:00Z")));
                assert_eq!(due.skipped, 0);
            }
        }
    }

    #[test]
    fn all_runs_each_in_portions() {
        let now = "2026-01-01T14:30:00Z";
        let first = due("@hourly", Missed::All, "2026-01-01T10:00:00Z", now);
        assert_eq!(first.run.len(), 3);
        assert_eq!(first.next, Some(utc("2026-01-01T13:00:00Z")));
        let rest = due("@hourly", Missed::All, "2026-01-01T13:00:00Z", now);
        assert_eq!(
            rest.run,
            [utc("2026-01-01T13:00:00Z"), utc("2026-01-01T14:00:00Z")]
        );
        assert_eq!(rest.next, Some(utc("2026-01-01T15:00:00Z")));
    }

    #[test]
    fn once_runs_the_latest_and_skip_only_a_punctual_one() {
        let (from, now) = ("2026-01-01T10:00:00Z", "2026-01-01T14:30:00Z");
        let once = due("@hourly", Missed::Once, from, now);
        assert_eq!(once.run, [utc("2026-01-01T14:00:00Z")]);
        assert_eq!(
            (once.next, once.skipped),
            (Some(utc("2026-01-01T15:00:00Z")), 4)
        );
        let skip = due("@hourly", Missed::Skip, from, now);
        assert!(skip.run.is_empty());
        assert_eq!(
            (skip.next, skip.skipped),
            (Some(utc("2026-01-01T15:00:00Z")), 5)
        );
        let near = due("@hourly", Missed::Skip, from, "2026-01-01T14:00:04Z");
        assert_eq!(near.run, [utc("2026-01-01T14:00:00Z")]);
        assert_eq!(near.skipped, 4);
    }

    #[test]
    fn missed_last_days_of_months_are_found() {
        let (from, now) = ("2028-01-31T05:00:00Z", "2028-04-30T03:59:59Z");
        let all = due("0 6 L * *", Missed::All, from, now);
        assert_eq!(
            all.run,
            [
                utc("2028-01-31T05:00:00Z"),
                utc("2028-02-29T05:00:00Z"),
                utc("2028-03-31T04:00:00Z")
            ]
        );
        assert_eq!(all.next, Some(utc("2028-04-30T04:00:00Z")));
        let once = due("0 6 L * *", Missed::Once, from, now);
        assert_eq!(once.run, [utc("2028-03-31T04:00:00Z")]);
        assert_eq!((once.next, once.skipped), (all.next, 2));
    }

    #[test]
    fn grace_is_at_most_half_of_the_time_between() {
        let at = "2026-01-01T10:00:00Z";
        let run = |rule, now| due(rule, Missed::Skip, at, now).run.len();
        assert_eq!(run("*/4 * * * * *", "2026-01-01T10:00:02Z"), 1);
        assert_eq!(run("*/4 * * * * *", "2026-01-01T10:00:02.001Z"), 0);
        assert_eq!(run("@hourly", "2026-01-01T10:00:05.001Z"), 0);
    }

    #[test]
    fn years_of_missed_seconds_take_no_time() {
        let start = std::time::Instant::now();
        let due = due(
            "* * * * * *",
            Missed::Once,
            "2006-01-01T00:00:00Z",
            "2026-01-01T00:00:00.5Z",
        );
        assert_eq!(due.run, [utc("2026-01-01T00:00:00Z")]);
        assert_eq!(due.skipped, MOST_COUNTED);
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn the_latest_is_the_one_that_walking_finds() {
        for rule in [
            "*/7 * * * *",
            "0 0 * * Mon",
            "30 2 * * *",
            "0 */5 1 * *",
            "13 13 13 * *",
            "0 6 L * *",
            "0 * 3,L * *",
        ] {
            let cron = Cron::parse(rule).unwrap();
            let first = cron.next_after(utc("2026-01-01T00:00:00Z"), ZONE).unwrap();
            for hours in [0, 1, 2, 30, 700, 2063, 2064, 2065, 7104, 7105, 9000] {
                let now = first + TimeDelta::hours(hours) + TimeDelta::milliseconds(hours);
                let walked = std::iter::successors(Some(first), |t| cron.next_after(*t, ZONE))
                    .take_while(|tick| *tick <= now)
                    .last();
                assert_eq!(
                    Some(latest(&cron, ZONE, first, now)),
                    walked,
                    "{rule} {hours}"
                );
            }
        }
    }

    #[test]
    fn a_rule_that_ends_has_no_next() {
        let now = "2026-06-01T00:00:00Z";
        let due = due(
            "0 0 0 1 1 * 2026",
            Missed::Once,
            "2025-12-31T23:00:00Z",
            now,
        );
        assert_eq!(due.run, [utc("2025-12-31T23:00:00Z")]);
        assert_eq!(due.next, None);
    }
}
