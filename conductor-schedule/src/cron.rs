use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use chrono_tz::Tz;
use conductor_core::{Likeness, nearest_of};
use cron::{Schedule, TimeUnitSpec};

use crate::field::FIELDS;

/// The maximum length of a rule; a longer text is probably a mistake.
const MAX_BYTES: usize = 200;

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 0 * * * *"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@weekly", "0 0 0 * * Sun"),
    ("@monthly", "0 0 0 1 * *"),
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
];

/// A cron rule, which defines ticks in local time.
///
/// It has 5 fields (minute, hour, day of month, month, weekday), 6 (seconds first) or 7 (a year
/// last), or is one of `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and
/// `@annually`. A field contains `*`, numbers, ranges `1-5`, steps `*/5` and lists of these. Months can
/// be written by name. Weekdays must be, as their numbers mean different days in different systems.
/// In the day of month, `L` is the last day: `L`, `15,L`.
///
/// **Both day fields must match**, so `0 9 1-7 * Mon` is the first Monday of a month. (In crontab,
/// if both are restricted, either one is enough.)
///
/// # Daylight saving
///
/// A tick comes when the local clock first shows its time or a later one. So a time that is skipped
/// ticks at the end of the gap, once even if several ticks are in it, and a time that occurs twice
/// ticks at the first occurrence.
///
/// A rule whose hour field contains all 24 hours (`*/5 * * * *`, `@hourly`) ticks at regular intervals
/// instead: at each instant at which the clock shows one of its times. It ticks in both passes of an
/// hour that occurs twice, and not in an hour that is skipped.
#[derive(Debug, Clone)]
pub struct Cron {
    text: String,
    pub(crate) schedule: Schedule,
    /// If `L` is among the days of the month: the other days, as bits. `schedule` has 28 to 31 for `L`.
    last: Option<u32>,
}

/// The error in a cron rule: what is wrong, in which field, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

impl Cron {
    /// Parses a rule. A rule for a date that does not exist is an error.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        read(text).map_err(CronError)
    }

    /// Returns the rule as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns an error if the rule has no further tick. [`Cron::parse`] does not check this, since a
    /// stored rule must stay readable after its last tick.
    pub fn refuse_past(&self, now: DateTime<Utc>, zone: Tz) -> Result<(), CronError> {
        if self.next_after(now, zone).is_some() {
            return Ok(());
        }
        let years = self.text.split_whitespace().nth(6).unwrap_or("*");
        Err(CronError(format!(
            "year `{years}`: this rule has no tick to come: write a later year, or `*`"
        )))
    }

    /// Whether the rule contains years and so has a last tick.
    pub fn has_years(&self) -> bool {
        self.text.split_whitespace().count() == 7
    }

    /// Whether the rule includes a day that its schedule includes.
    pub(crate) fn has_day(&self, date: NaiveDate) -> bool {
        self.last.is_none_or(|named| {
            named >> date.day() & 1 == 1 || date.succ_opt().is_none_or(|next| next.day() == 1)
        })
    }

    /// Whether the rule includes every hour, and so ticks at regular intervals.
    pub(crate) fn beats(&self) -> bool {
        self.schedule.hours().is_all()
    }
}

fn read(whole: &str) -> Result<Cron, String> {
    let text = whole;
    if text.trim().is_empty() {
        return Err(
            "a cron rule cannot be empty: write it like `0 9 * * Mon-Fri` or `@hourly`".to_owned(),
        );
    }
    if text.len() > MAX_BYTES {
        return Err(format!(
            "this cron rule has {} bytes, and at most {MAX_BYTES} are allowed: write ranges and steps instead of lists",
            text.len()
        ));
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(format!(
            "a cron rule cannot hold control characters, and this one holds U+{:04X}: write a space",
            u32::from(control)
        ));
    }
    let text = match text.trim().starts_with('@') {
        true => nickname(text.trim())?,
        false => text,
    };
    let given: Vec<&str> = text.split_whitespace().collect();
    let (first, last) = match given.len() {
        5 => (1, 6),
        6 => (0, 6),
        7 => (0, 7),
        count => return Err(wrong_count(count)),
    };
    let mut fields = vec!["0".to_owned(); first];
    for (field, text) in FIELDS[first..last].iter().zip(&given) {
        fields.push(field.read(text)?);
    }
    let schedule = Schedule::from_str(&fields.join(" "))
        .map_err(|error| format!("`{text}` is no cron rule: {error}"))?;
    let cron = Cron {
        text: whole.trim().to_owned(),
        schedule,
        last: beside_last(given[3 - first])?,
    };
    refuse_never(&cron, &given[3 - first..])?;
    Ok(cron)
}

/// Returns the days of the month besides `L`, as bits; `None` if `L` is not among them.
fn beside_last(days: &str) -> Result<Option<u32>, String> {
    let field = &FIELDS[3];
    let (last, named): (Vec<&str>, Vec<&str>) =
        days.split(',').partition(|item| field.is_last(item));
    if last.is_empty() {
        return Ok(None);
    }
    if named.is_empty() {
        return Ok(Some(0));
    }
    let named = format!("0 0 0 {} * *", field.read(&named.join(","))?);
    let named = Schedule::from_str(&named).map_err(|error| error.to_string())?;
    Ok(Some(
        named
            .days_of_month()
            .iter()
            .fold(0, |bits, day| bits | 1 << day),
    ))
}

fn nickname(text: &str) -> Result<&'static str, String> {
    let lower = text.to_lowercase();
    if let Some((_, rule)) = NICKNAMES.iter().find(|(name, _)| *name == lower) {
        return Ok(rule);
    }
    if lower == "@reboot" {
        return Err(
            "`@reboot` names no time: invoke the task where the program starts, or write a rule such as `@hourly`"
                .to_owned(),
        );
    }
    if lower.starts_with("@every") {
        return Err(format!(
            "`{text}` is not known here: write `*/5 * * * *` for every 5 minutes, `*/30 * * * * *` for every 30 seconds"
        ));
    }
    let known = NICKNAMES.iter().map(|(name, _)| (&name[1..], name));
    Err(match nearest_of(Likeness::Close, &lower[1..], known) {
        Some(name) => format!("`{text}` is not known: did you mean `{name}`?"),
        None => {
            let names: Vec<String> = (NICKNAMES.iter()).map(|(n, _)| format!("`{n}`")).collect();
            format!("`{text}` is not known: write one of {}", names.join(", "))
        }
    })
}

fn wrong_count(count: usize) -> String {
    let fields = if count == 1 { "field" } else { "fields" };
    format!(
        "a cron rule has 5 fields (minute, hour, day of month, month, weekday), 6 (second first) or 7 (year last), \
         and this one has {count} {fields}: write it like `0 9 * * Mon-Fri`"
    )
}

/// Returns an error for dates that no year has. `given` starts at the day of month.
fn refuse_never(cron: &Cron, given: &[&str]) -> Result<(), String> {
    let schedule = &cron.schedule;
    let longest = |month| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let most = schedule.months().iter().map(longest).max().unwrap_or(31);
    let (day, month) = (given[0], given[1]);
    if schedule.days_of_month().range(..=most).next().is_none() {
        return Err(format!(
            "day of month `{day}` with month `{month}`: this date never comes: write a day up to {most}, or another month"
        ));
    }
    let start = DateTime::<Utc>::UNIX_EPOCH - chrono::TimeDelta::seconds(1);
    if cron.next_local(start.naive_utc()).is_some() {
        return Ok(());
    }
    let weekday = given[2];
    let year = given.get(3).unwrap_or(&"*");
    Err(format!(
        "day of month `{day}` with month `{month}`, weekday `{weekday}` and year `{year}`: this date never comes: write `*` for the year or the weekday"
    ))
}

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        Self::parse(text)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cron {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_of_every_form_are_read_and_keep_their_text() {
        for text in [
            "* * * * *",
            "*/5 * * * *",
            "0 9 * * Mon-Fri",
            "0 0 9 * * Mon-Fri",
            "*/3 * * * * *",
            "0 0 12 1 1 ? 2099",
            "0 0 0 29 2 *",
            "0 22-23,0-6 * * Fri-Mon",
            "0 0 1 Jan,mar-JUNE *",
            "5/15 0 1-7/2 */3 sunday",
            "0 6 L * *",
            "0 0 6 1-7,l 2 Sat",
            "@hourly",
            "@Daily",
            "@midnight",
            "@weekly",
            "@monthly",
            "@yearly",
            "@annually",
        ] {
            assert_eq!(Cron::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(Cron::parse("  0  9 * * * ").unwrap().as_str(), "0  9 * * *");
    }

    /// Rules that cannot be parsed, and what the error says.
    const MISTAKES: &[(&str, &str)] = &[
        ("", "cannot be empty: write it like"),
        ("   ", "cannot be empty"),
        (
            "5m",
            "this one has 1 field: write it like `0 9 * * Mon-Fri`",
        ),
        ("* * * *", "this one has 4 fields"),
        ("* * * * * * * *", "this one has 8 fields"),
        ("61 * * * *", "minute `61`: minutes go from 0 to 59"),
        ("60 * * * * *", "second `60`: seconds go from 0 to 59"),
        ("0 24 * * *", "hour `24`: hours go from 0 to 23"),
        (
            "0 99999999999 * * *",
            "hour `99999999999`: hours go from 0 to 23",
        ),
        (
            "0 0 0 * *",
            "day of month `0`: days of a month go from 1 to 31",
        ),
        ("0 0 1 13 *", "month `13`: months go from 1 to 12"),
        ("0 0 1 Foo *", "month `Foo`: `Foo` is no month"),
        (
            "0 0 0 1 1 * 1969",
            "year `1969`: years go from 1970 to 2100",
        ),
        ("a * * * *", "minute `a`: `a` is no number"),
        ("1,,2 * * * *", "minute `1,,2`: a number is missing"),
        ("1- * * * *", "a number is missing"),
        ("-5 * * * *", "a number is missing"),
        ("? * * * *", "`?` stands for days only: write `*`"),
        (
            "0 22-6 * * *",
            "hour `22-6`: a range cannot go over the end: write `22-23,0-6`",
        ),
        ("0 0 1 nov-feb *", "write `11-12,1-2`"),
        ("0 0 0 1 1 * 2090-2080", "write `2080-2090`"),
        (
            "*/0 * * * *",
            "minute `*/0`: the step `0` is no number from 1 to 59",
        ),
        ("*/60 * * * *", "the step `60`"),
        (
            "0 9 * * 1",
            "weekday `1`: the number of a weekday differs between systems: write `Mon`",
        ),
        ("0 9 * * 1-5", "write `Mon-Fri`"),
        ("0 0 9 * * 0", "write `Sun`"),
        ("0 9 * * Mo", "did you mean `Mon`?"),
        ("0 9 15W * *", "`W` and `#` are not known"),
        ("0 9 LW * *", "day of month `LW`: `W` and `#` are not known"),
        (
            "0 9 * * Mon#1",
            "weekday `Mon#1`: `W` and `#` are not known",
        ),
        (
            "0 9 15L * *",
            "day of month `15L`: `L` stands by itself for the last day of a month: write `L` or `15,L`",
        ),
        ("0 9 L/2 * *", "`L` stands by itself"),
        ("0 9 1-L * *", "`L` stands by itself"),
        ("0 9 L-3 * *", "`L` stands by itself"),
        ("0 9 * * 5L", "weekday `5L`: `L` stands by itself"),
        ("0 9 * * L", "write `L` or `15,L` as the day of month"),
        ("0 9 * L *", "month `L`: `L` stands by itself"),
        (
            "0 0 9 L 2 Mon 2026-2027",
            "day of month `L` with month `2`, weekday `Mon` and year `2026-2027`: this date never comes",
        ),
        (
            "0 0 30 2 *",
            "day of month `30` with month `2`: this date never comes: write a day up to 29",
        ),
        (
            "0 0 31 4,jun *",
            "day of month `31` with month `4,jun`: this date never comes: write a day up to 30",
        ),
        ("0 0 0 29 2 * 2027", "year `2027`: this date never comes"),
        ("@foo", "`@foo` is not known: write one of `@hourly`"),
        ("@houry", "did you mean `@hourly`?"),
        ("@ö", "`@ö` is not known"),
        ("@", "`@` is not known"),
        ("@reboot", "`@reboot` names no time"),
        ("@every 5m", "write `*/5 * * * *` for every 5 minutes"),
        (
            "0\t9 * * *",
            "control characters, and this one holds U+0009: write a space",
        ),
        ("0 9 * * *\0", "U+0000"),
    ];

    #[test]
    fn mistakes_name_the_field_and_the_fix() {
        for (text, problem) in MISTAKES {
            let error = Cron::parse(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let long = format!("{} * * * *", "1,".repeat(100));
        let error = Cron::parse(&long).unwrap_err().to_string();
        assert!(error.contains("has 208 bytes"), "{error}");
    }

    #[test]
    fn a_year_that_is_over_is_read_but_refused_where_it_is_written() {
        let now = DateTime::parse_from_rfc3339("2026-06-01T00:00:00Z")
            .unwrap()
            .to_utc();
        let past = Cron::parse("0 0 0 1 1 * 2020-2026").unwrap();
        assert!(past.has_years() && !Cron::parse("@yearly").unwrap().has_years());
        let error = past.refuse_past(now, Tz::UTC).unwrap_err().to_string();
        assert!(
            error.contains("year `2020-2026`: this rule has no tick to come"),
            "{error}"
        );
        let coming = Cron::parse("0 0 0 1 1 * 2027").unwrap();
        assert_eq!(coming.refuse_past(now, Tz::UTC), Ok(()));
    }
}
