use std::fmt;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::clock;
use crate::weekdays::Weekdays;

const DAY: u32 = 24 * 60;

/// The number of days searched for the next opening: several weeks, as a gap can skip an opening.
const LOOKED_AT: usize = 32;

/// The number of days before the instant from which openings are searched. A zone can skip a whole day, so the
/// opening of the day before yesterday can still be open.
const OPEN_FOR: u64 = 3;

/// The same, to find the start of adjacent openings: six whole days, and days that a zone skips.
const OPEN_AT_MOST: u64 = 10;

/// A daily window in which a task may run, such as `22:00-06:00`.
///
/// It opens at the first time and closes at the second one. If the second one is earlier than the
/// first, the window extends into the next day. The days are those on which the window opens, so
/// `Fri` with `22:00-06:00` ends on Saturday. Adjacent windows are joined: `Sat,Sun` with
/// `00:00-24:00` opens once.
///
/// At a change of daylight saving, it opens and closes when the local clock first shows the time or
/// a later one. So a time that is skipped counts at the end of the gap, and a window within a gap does
/// not open. A time that occurs twice counts at the first occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    text: String,
    opens: u32,
    closes: u32,
    days: Weekdays,
    zone: Tz,
}

/// The error in a window: what is wrong, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// An error in the times.
    #[error("{0}")]
    Times(String),
    /// An error in the days.
    #[error("{0}")]
    Days(String),
}

impl Window {
    /// Parses the times, such as `22:00-06:00` or `18:00-24:00`, and the days on which the window
    /// opens, such as `Mon-Fri` or `Sat,Sun`. Without days, it opens on every day.
    pub fn parse(text: &str, days: Option<&str>, zone: Tz) -> Result<Self, WindowError> {
        let (opens, closes) = read_times(text).map_err(WindowError::Times)?;
        let days = match days {
            None => Weekdays::ALL,
            Some(days) => Weekdays::parse(days)
                .map_err(|problem| WindowError::Days(format!("days `{days}`: {problem}")))?,
        };
        if closes - opens == DAY && days == Weekdays::ALL {
            return Err(WindowError::Times(format!(
                "window `{}`: it is always open: leave it out, or give `days`",
                text.trim()
            )));
        }
        Ok(Self {
            text: text.trim().to_owned(),
            opens,
            closes,
            days,
            zone,
        })
    }

    /// Returns the times as they were written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the time zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// Whether the window is open at an instant.
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        self.stretches(at, OPEN_FOR)
            .find(|(_, end)| *end > at)
            .is_some_and(|(start, _)| start <= at)
    }

    /// Returns since when the window has been open at an instant; `None` if it is closed.
    pub fn open_since(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (start, _) = self
            .stretches(at, OPEN_AT_MOST)
            .find(|(_, end)| *end > at)?;
        (start <= at).then_some(start)
    }

    /// Returns the next opening at or after an instant.
    pub fn opens_after(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let mut starts = self.stretches(at, OPEN_FOR).map(|(start, _)| start);
        (starts.find(|start| *start >= at)).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Returns the next closing after an instant.
    pub fn closes_after(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let mut ends = self.stretches(at, OPEN_FOR).map(|(_, end)| end);
        (ends.find(|end| *end > at)).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Returns the periods in which the window is open, in order, beginning `back` days before the
    /// instant. The first period may have begun earlier than its start says.
    fn stretches(
        &self,
        at: DateTime<Utc>,
        back: u64,
    ) -> impl Iterator<Item = (DateTime<Utc>, DateTime<Utc>)> {
        // Limits the instant to years for which local times can be computed.
        let first = DateTime::UNIX_EPOCH - TimeDelta::days(100_000);
        let last = DateTime::UNIX_EPOCH + TimeDelta::days(1_000_000);
        let today = clock::shown(at.clamp(first, last), self.zone).date();
        let days = (today - Days::new(back)).iter_days().take(LOOKED_AT);
        let mut openings = days.filter_map(|day| self.opening(day)).peekable();
        std::iter::from_fn(move || {
            let (start, mut end) = openings.next()?;
            while let Some((_, later)) = openings.next_if(|(start, _)| *start <= end) {
                end = later;
            }
            Some((start, end))
        })
    }

    /// Returns the period that begins on a day.
    fn opening(&self, day: NaiveDate) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        if !self.days.contains(day.weekday()) {
            return None;
        }
        let midnight = day.and_time(NaiveTime::MIN);
        let reached =
            |minute: u32| clock::reached(midnight + TimeDelta::minutes(minute.into()), self.zone);
        let (start, end) = (reached(self.opens)?, reached(self.closes)?);
        (start < end).then_some((start, end))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the opening and the closing in minutes from midnight. A closing on the next day is beyond 24 hours.
fn read_times(text: &str) -> Result<(u32, u32), String> {
    let text = text.trim();
    let about = |problem: String| format!("window `{text}`: {problem}");
    let Some((opens, closes)) = text.split_once('-') else {
        return Err(about(
            "a window has two times: write it like `22:00-06:00`".to_owned(),
        ));
    };
    let (opens, closes) = (opens.trim(), closes.trim());
    let from = read_time(opens).map_err(about)?;
    let to = read_time(closes).map_err(about)?;
    if from == DAY {
        return Err(about(format!(
            "a day begins at 00:00: write `00:00-{closes}`"
        )));
    }
    if from == to {
        return Err(about(
            "it opens and closes at the same time: leave it out for all day, or write two times such as `22:00-06:00`"
                .to_owned(),
        ));
    }
    Ok((from, if to < from { to + DAY } else { to }))
}

fn read_time(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Err("a time is missing: write it like `22:00-06:00`".to_owned());
    }
    let number = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        let is_plain = part.bytes().all(|byte| byte.is_ascii_digit());
        (is_plain && digits.contains(&part.len())).then(|| part.parse::<u32>().ok())?
    };
    if let Some(hour) = number(text, 1..=2).filter(|hour| *hour <= 24) {
        return Err(format!("`{text}` lacks its minutes: write `{hour:02}:00`"));
    }
    let time = text
        .split_once(':')
        .and_then(|(hour, minute)| Some((number(hour, 1..=2)?, number(minute, 2..=2)?)));
    match time {
        Some((hour @ 0..=23, minute @ 0..=59)) => Ok(hour * 60 + minute),
        Some((24, 0)) => Ok(DAY),
        Some(_) => Err(format!(
            "`{text}` is no time: hours go from 00 to 23, minutes from 00 to 59, and a day may end at 24:00"
        )),
        None => Err(format!(
            "`{text}` is no time: write hours and minutes, such as `06:00` or `22:30`"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn berlin(text: &str, days: Option<&str>) -> Window {
        Window::parse(text, days, Tz::Europe__Berlin).unwrap()
    }

    #[test]
    fn mistakes_come_with_the_fix() {
        for (text, fix) in [
            ("", "two times: write it like `22:00-06:00`"),
            ("22:00", "two times"),
            ("22:00-", "a time is missing"),
            ("22-06", "`22` lacks its minutes: write `22:00`"),
            ("22:00-6", "`6` lacks its minutes: write `06:00`"),
            ("25:00-06:00", "`25:00` is no time: hours go from 00 to 23"),
            ("22:60-06:00", "minutes from 00 to 59"),
            ("22:00-24:01", "a day may end at 24:00"),
            ("24:00-06:00", "write `00:00-06:00`"),
            ("06:00-06:00", "opens and closes at the same time"),
            ("00:00-24:00", "always open: leave it out, or give `days`"),
            ("10pm-6am", "`10pm` is no time: write hours and minutes"),
            ("22:0-06:00", "`22:0` is no time"),
            ("+2:00-06:00", "`+2:00` is no time"),
            ("22:00-06:00-07:00", "`06:00-07:00` is no time"),
        ] {
            let error = Window::parse(text, None, Tz::UTC).unwrap_err();
            assert!(error.to_string().contains(fix), "{text}: {error}");
            assert!(matches!(error, WindowError::Times(_)));
        }
        let error = Window::parse("22:00-06:00", Some("1-5"), Tz::UTC).unwrap_err();
        assert!(matches!(error, WindowError::Days(_)));
        assert!(error.to_string().contains("write `Mon-Fri`"), "{error}");
    }

    #[test]
    fn it_reaches_into_the_next_day() {
        let window = berlin("22:00-06:00", Some("Fri"));
        // 2026-01-02 is a Friday.
        assert!(!window.is_open(utc("2026-01-02T20:59:59.999Z")));
        assert!(window.is_open(utc("2026-01-02T21:00:00Z")));
        assert!(window.is_open(utc("2026-01-03T04:59:59.999Z")));
        assert!(!window.is_open(utc("2026-01-03T05:00:00Z")));
        assert!(!window.is_open(utc("2026-01-03T22:00:00Z")));
        for (at, since) in [
            ("2026-01-02T20:59:59.999Z", None),
            ("2026-01-02T21:00:00Z", Some("2026-01-02T21:00:00Z")),
            ("2026-01-03T04:59:59.999Z", Some("2026-01-02T21:00:00Z")),
            ("2026-01-03T05:00:00Z", None),
        ] {
            assert_eq!(window.open_since(utc(at)), since.map(utc), "{at}");
        }
        let saturday = utc("2026-01-03T05:00:00Z");
        assert_eq!(window.opens_after(saturday), utc("2026-01-09T21:00:00Z"));
        assert_eq!(window.closes_after(saturday), utc("2026-01-10T05:00:00Z"));
        assert_eq!(window.closes_after(utc("2026-01-03T01:00:00Z")), saturday);
        assert_eq!(
            window.opens_after(utc("2026-01-02T21:00:00Z")),
            utc("2026-01-02T21:00:00Z")
        );
    }

    #[test]
    fn whole_days_that_touch_are_one() {
        let window = berlin("00:00-24:00", Some("Sat,Sun"));
        let friday = utc("2026-01-02T12:00:00Z");
        assert_eq!(window.opens_after(friday), utc("2026-01-02T23:00:00Z"));
        assert_eq!(window.closes_after(friday), utc("2026-01-04T23:00:00Z"));
        assert!(window.is_open(utc("2026-01-03T23:00:00Z")));
        let six = berlin("00:00-24:00", Some("Mon-Sat"));
        assert_eq!(
            six.closes_after(utc("2026-01-10T12:00:00Z")),
            utc("2026-01-10T23:00:00Z")
        );
        assert_eq!(
            six.open_since(utc("2026-01-10T22:59:59Z")),
            Some(utc("2026-01-04T23:00:00Z"))
        );
    }

    #[test]
    fn a_change_of_the_clock_moves_the_ends() {
        let gap = berlin("02:30-05:00", None);
        let before = utc("2026-03-29T00:00:00Z");
        assert_eq!(gap.opens_after(before), utc("2026-03-29T01:00:00Z"));
        assert_eq!(gap.closes_after(before), utc("2026-03-29T03:00:00Z"));
        // The whole window is in the gap.
        let swallowed = berlin("02:00-02:30", None);
        assert_eq!(swallowed.opens_after(before), utc("2026-03-30T00:00:00Z"));
        // Each time counts at its first occurrence.
        let fold = berlin("02:15-02:45", None);
        let before = utc("2026-10-25T00:00:00Z");
        assert_eq!(fold.opens_after(before), utc("2026-10-25T00:15:00Z"));
        assert_eq!(fold.closes_after(before), utc("2026-10-25T00:45:00Z"));
        assert!(!fold.is_open(utc("2026-10-25T01:30:00Z")));
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        let window = berlin("22:00-06:00", None);
        for at in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
            assert!(!window.is_open(at));
            assert_eq!(window.open_since(at), None);
            assert!(window.opens_after(at) >= at);
            assert!(window.closes_after(at) >= at);
        }
    }
}
