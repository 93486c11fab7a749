//! The fields of a cron rule: their valid values and their errors.

use crate::weekdays::Weekdays;

/// One field, with its names for error messages.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    plural: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const fn numbers(name: &'static str, plural: &'static str, min: u32, max: u32) -> Field {
    Field {
        name,
        plural,
        min,
        max,
        names: &[],
    }
}

/// All seven fields in order.
pub(crate) static FIELDS: [Field; 7] = [
    numbers("second", "seconds", 0, 59),
    numbers("minute", "minutes", 0, 59),
    numbers("hour", "hours", 0, 23),
    numbers("day of month", "days of a month", 1, 31),
    Field {
        name: "month",
        plural: "months",
        min: 1,
        max: 12,
        names: &MONTHS,
    },
    numbers("weekday", "weekdays", 1, 7),
    numbers("year", "years", 1970, 2100),
];

impl Field {
    /// Returns the field as the crate `cron` parses it. The error names the field and the fix.
    pub(crate) fn read(&self, text: &str) -> Result<String, String> {
        let read = match self.name {
            "weekday" => unsupported(text)
                .map_or_else(|| Weekdays::parse(text), Err)
                .map(|days| {
                    if days == Weekdays::ALL {
                        "*".to_owned()
                    } else {
                        days.names()
                    }
                }),
            _ => self.items(text),
        };
        read.map_err(|problem| format!("{} `{text}`: {problem}", self.name))
    }

    fn items(&self, text: &str) -> Result<String, String> {
        let items: Result<Vec<String>, String> =
            text.split(',').map(|item| self.item(item)).collect();
        Ok(items?.join(","))
    }

    fn item(&self, item: &str) -> Result<String, String> {
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some(self.step(step)?)),
        };
        let range = match range.split_once('-') {
            // The possible last days of a month; `Cron::has_day` selects the right one.
            _ if self.is_last(item) => "28-31".to_owned(),
            _ if range == "*" => "*".to_owned(),
            _ if range == "?" && self.name == "day of month" => "*".to_owned(),
            Some((from, to)) => {
                let (from, to) = (self.number(from)?, self.number(to)?);
                self.refuse_backwards(from, to)?;
                format!("{from}-{to}")
            }
            None => self.number(range)?.to_string(),
        };
        Ok(step.map_or_else(|| range.clone(), |step| format!("{range}/{step}")))
    }

    /// Whether an item of a list is `L`, the last day of a month.
    pub(crate) fn is_last(&self, item: &str) -> bool {
        self.name == "day of month" && item.eq_ignore_ascii_case("l")
    }

    fn step(&self, text: &str) -> Result<u32, String> {
        let most = self.max - self.min;
        text.parse()
            .ok()
            .filter(|step| (1..=most).contains(step))
            .ok_or_else(|| {
                format!(
                    "the step `{text}` is no number from 1 to {most}: write `*/{}`",
                    2.min(most)
                )
            })
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let Self {
            plural, min, max, ..
        } = self;
        if let Some(index) = self.month(text) {
            return Ok(index);
        }
        if text.is_empty() {
            return Err(format!(
                "a number is missing: {plural} go from {min} to {max}"
            ));
        }
        if let Some(problem) = unsupported(text) {
            return Err(problem);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(match text {
                "?" => "`?` stands for days only: write `*`".to_owned(),
                _ if self.names.is_empty() => {
                    format!("`{text}` is no number: {plural} go from {min} to {max}")
                }
                _ => format!("`{text}` is no month: write Jan to Dec, or {min} to {max}"),
            });
        }
        text.parse()
            .ok()
            .filter(|number| (*min..=*max).contains(number))
            .ok_or_else(|| format!("{plural} go from {min} to {max}"))
    }

    /// Returns the number of a month, by its full name or its first three letters.
    fn month(&self, text: &str) -> Option<u32> {
        let lower = text.to_lowercase();
        let is = |name: &&'static str| lower == **name || name.get(..3) == Some(lower.as_str());
        let index = self.names.iter().position(is)?;
        u32::try_from(index + 1).ok()
    }

    fn refuse_backwards(&self, from: u32, to: u32) -> Result<(), String> {
        if from <= to {
            return Ok(());
        }
        let Self { min, max, .. } = self;
        Err(match self.name {
            "year" => format!("this range runs backwards: write `{to}-{from}`"),
            _ => format!("a range cannot go over the end: write `{from}-{max},{min}-{to}`"),
        })
    }
}

/// Returns an error for syntax of other systems that is not supported here.
fn unsupported(text: &str) -> Option<String> {
    let bare = text
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .to_ascii_lowercase();
    if bare == "l" {
        return Some(
            "`L` stands by itself for the last day of a month: write `L` or `15,L` as the day of month"
                .to_owned(),
        );
    }
    (matches!(&*bare, "lw" | "w") || text.contains('#')).then(|| {
        "`W` and `#` are not known here: both day fields must fit, so `1-7` with `Mon` is the first Monday"
            .to_owned()
    })
}
