//! Sets of weekdays, written by name.

use chrono::Weekday;
use conductor_core::{Likeness, nearest_of};

const ORDER: [(Weekday, &str, &[&str]); 7] = [
    (Weekday::Sun, "Sun", &["sun", "sunday"]),
    (Weekday::Mon, "Mon", &["mon", "monday"]),
    (Weekday::Tue, "Tue", &["tue", "tues", "tuesday"]),
    (Weekday::Wed, "Wed", &["wed", "wednesday"]),
    (Weekday::Thu, "Thu", &["thu", "thur", "thurs", "thursday"]),
    (Weekday::Fri, "Fri", &["fri", "friday"]),
    (Weekday::Sat, "Sat", &["sat", "saturday"]),
];

/// A set of weekdays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weekdays([bool; 7]);

impl Weekdays {
    pub(crate) const ALL: Self = Self([true; 7]);

    /// Parses names, ranges, lists and steps: `Mon-Fri`, `Sat,Sun`, `*/2`. Ranges can extend over the
    /// end of the week. The error completes "weekday `…`: ".
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut days = Self([false; 7]);
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                None => (item, 1),
                Some((range, step)) => (range, read_step(step)?),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" || range == "?" => (0, 6),
                Some((from, to)) => (day(from, text)?, day(to, text)?),
                None if item.contains('/') => {
                    return Err(format!(
                        "a step needs a range: write `*/{step}` or `Mon-Fri/{step}`"
                    ));
                }
                None => (day(range, text)?, day(range, text)?),
            };
            for passed in (0..=(to + 7 - from) % 7).step_by(step) {
                days.0[(from + passed) % 7] = true;
            }
        }
        Ok(days)
    }

    pub(crate) fn contains(self, day: Weekday) -> bool {
        self.0[day.num_days_from_sunday() as usize]
    }

    /// Returns the names separated by commas, which the crate `cron` parses.
    pub(crate) fn names(self) -> String {
        let chosen = ORDER.iter().zip(self.0).filter(|(_, chosen)| *chosen);
        let names: Vec<&str> = chosen.map(|((_, name, _), _)| *name).collect();
        names.join(",")
    }
}

fn read_step(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|step| (1..=6).contains(step))
        .ok_or_else(|| format!("the step `{text}` is no number from 1 to 6: write `*/2`"))
}

/// Returns the index of a day, with Sunday as 0.
fn day(name: &str, whole: &str) -> Result<usize, String> {
    let lower = name.trim().to_lowercase();
    let known = |names: &&[&str]| names.contains(&lower.as_str());
    if let Some(day) = ORDER.iter().position(|(_, _, names)| known(names)) {
        return Ok(day);
    }
    if lower.is_empty() {
        return Err("a day is missing: write days like `Mon-Fri` or `Sat,Sun`".to_owned());
    }
    if lower.starts_with(|c: char| c.is_ascii_digit()) && !lower.contains(['#', 'l']) {
        return Err(match named(whole) {
            Some(names) => format!(
                "the number of a weekday differs between systems: write `{names}`, which is what crontab takes it for"
            ),
            None => {
                "weekdays go from Mon to Sun: write days like `Mon-Fri` or `Sat,Sun`".to_owned()
            }
        });
    }
    let known = ORDER
        .iter()
        .flat_map(|(_, short, names)| names.iter().map(move |name| (*name, *short)));
    Err(match nearest_of(Likeness::Close, &lower, known) {
        Some(short) => format!("`{name}` is no weekday: did you mean `{short}`?"),
        None => format!("`{name}` is no weekday: write days like `Mon-Fri` or `Sat,Sun`"),
    })
}

/// Replaces crontab's numbers of weekdays by names.
fn named(text: &str) -> Option<String> {
    let day = |part: &str| match part.parse::<usize>() {
        Ok(number) if number <= 7 => Some(ORDER[number % 7].1.to_owned()),
        Ok(_) => None,
        Err(_) => Some(part.to_owned()),
    };
    let item = |item: &str| {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, format!("/{step}")),
            None => (item, String::new()),
        };
        let days: Option<Vec<String>> = range.split('-').map(day).collect();
        Some(format!("{}{step}", days?.join("-")))
    };
    let items: Option<Vec<String>> = text.split(',').map(item).collect();
    Some(items?.join(","))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn days_are_names_lists_ranges_and_steps() {
        for (text, names) in [
            ("Mon", "Mon"),
            ("mon-FRI", "Mon,Tue,Wed,Thu,Fri"),
            ("Saturday,sun", "Sun,Sat"),
            ("Fri-Mon", "Sun,Mon,Fri,Sat"),
            ("Mon-Sun", "Sun,Mon,Tue,Wed,Thu,Fri,Sat"),
            ("Sun-Sat", "Sun,Mon,Tue,Wed,Thu,Fri,Sat"),
            ("*/2", "Sun,Tue,Thu,Sat"),
            ("Mon-Fri/2", "Mon,Wed,Fri"),
            ("?", "Sun,Mon,Tue,Wed,Thu,Fri,Sat"),
        ] {
            assert_eq!(Weekdays::parse(text).unwrap().names(), names, "{text}");
        }
        let weekend = Weekdays::parse("Sat-Sun").unwrap();
        assert!(weekend.contains(Weekday::Sun) && weekend.contains(Weekday::Sat));
        assert!(!weekend.contains(Weekday::Mon));
    }

    #[test]
    fn mistakes_come_with_the_fix() {
        for (text, fix) in [
            ("1", "write `Mon`,"),
            ("0", "write `Sun`,"),
            ("7", "write `Sun`,"),
            ("1-5", "write `Mon-Fri`,"),
            ("1,3,Fri", "write `Mon,Wed,Fri`,"),
            ("1-5/2", "write `Mon-Fri/2`,"),
            ("8", "go from Mon to Sun"),
            ("Mo", "did you mean `Mon`?"),
            ("Thusday", "did you mean `Thu`?"),
            ("x", "is no weekday"),
            ("", "a day is missing"),
            ("Mon,", "a day is missing"),
            ("Mon/2", "a step needs a range"),
            ("*/0", "the step `0`"),
            ("*/x", "the step `x`"),
        ] {
            let problem = Weekdays::parse(text).unwrap_err();
            assert!(problem.contains(fix), "{text}: {problem}");
        }
    }
}
