//! Durations with units, such as `5m` or `2h 30m`, ranges of durations, and rates.

use std::time::Duration;

use humantime::DurationError;
use syn::Expr;

use super::string;

/// The maximum. A longer duration is probably a mistake, and sums of two durations stay far from overflow.
const MAX_YEARS: u64 = 100;
const MAX: Duration = Duration::from_secs(MAX_YEARS * 31_557_600);

/// Reads a duration as milliseconds.
pub(crate) fn millis(expr: &Expr) -> syn::Result<u64> {
    read(expr, |text| parse(text).and_then(refuse_zero))
}

/// Reads a duration as milliseconds, and permits zero.
pub(crate) fn millis_or_zero(expr: &Expr) -> syn::Result<u64> {
    read(expr, parse)
}

/// Reads the first and the longest delay as milliseconds: `15s..2h`, or `30s` for both.
pub(crate) fn backoff(expr: &Expr) -> syn::Result<(u64, u64)> {
    read(expr, parse_backoff)
}

/// Reads a rate such as `100/1m` or `10/s`, as a number and an interval in milliseconds.
pub(crate) fn rate(expr: &Expr) -> syn::Result<(u32, u64)> {
    let literal = string(expr, "a rate such as `\"100/1m\"`")?;
    parse_rate(&literal.value()).map_err(|problem| syn::Error::new(literal.span(), problem))
}

fn parse_rate(text: &str) -> Result<(u32, u64), String> {
    let Some((number, interval)) = text.split_once('/') else {
        return Err(format!(
            "`{text}` is not a rate: write a number and an interval, such as `100/1m`"
        ));
    };
    let number = match number.trim().parse::<u32>() {
        Ok(number) if number > 0 && i32::try_from(number).is_ok() => number,
        _ => {
            return Err(format!(
                "`{}` is not a number of starts: write at least 1, as in `100/1m`",
                number.trim()
            ));
        }
    };
    let interval = interval.trim();
    let per = if interval.starts_with(|first: char| first.is_ascii_alphabetic()) {
        parse(&format!("1{interval}"))
    } else {
        parse(interval)
    };
    Ok((number, per.and_then(refuse_zero)?))
}

fn read<T>(expr: &Expr, parse: impl Fn(&str) -> Result<T, String>) -> syn::Result<T> {
    let literal = string(expr, "a duration such as `\"5m\"`")?;
    parse(&literal.value()).map_err(|problem| syn::Error::new(literal.span(), problem))
}

fn parse_backoff(text: &str) -> Result<(u64, u64), String> {
    let one = |text: &str| parse(text).and_then(refuse_zero);
    let Some((first, longest)) = text.split_once("..") else {
        return one(text).map(|delay| (delay, delay));
    };
    let (first, longest) = (first.trim(), longest.trim());
    if first.is_empty() || longest.is_empty() {
        return Err(
            "a backoff has two ends: the first delay and the longest, as in `15s..2h`".to_owned(),
        );
    }
    let delays = (one(first)?, one(longest)?);
    if delays.0 > delays.1 {
        return Err(format!(
            "this backoff runs backwards, the first delay comes first: write `{longest}..{first}`"
        ));
    }
    Ok(delays)
}

fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    // humantime accepts a bare zero without a unit; here every number needs one.
    let duration = humantime::parse_duration(text).map_err(|error| explain(text, &error))?;
    if text == "0" {
        return Err(unitless(text));
    }
    if duration > MAX {
        return Err(format!(
            "`{text}` is too long: at most {MAX_YEARS} years are allowed"
        ));
    }
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(format!(
            "`{text}` is too fine: a millisecond, `1ms`, is the smallest unit"
        ));
    }
    Ok(duration.as_secs() * 1000 + u64::from(duration.subsec_millis()))
}

fn refuse_zero(millis: u64) -> Result<u64, String> {
    match millis {
        0 => Err("a duration of zero cannot be used here: write at least `1ms`".to_owned()),
        millis => Ok(millis),
    }
}

fn explain(text: &str, error: &DurationError) -> String {
    match error {
        DurationError::UnknownUnit { unit, .. } if unit.is_empty() => unitless(text),
        DurationError::UnknownUnit { unit, .. } => format!(
            "`{unit}` is not a unit of time: use `ms`, `s`, `m`, `h`, `d`, `w`, or `months` and `years`"
        ),
        DurationError::NumberOverflow => {
            format!("`{text}` cannot be used: durations go from `1ms` to {MAX_YEARS} years")
        }
        _ => format!(
            "`{text}` is not a duration: write numbers and units, such as `30s`, `5m` or `2h 30m`"
        ),
    }
}

fn unitless(text: &str) -> String {
    format!("`{text}` lacks a unit: write `{text}s` for seconds, `{text}m` for minutes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse("1ms"), Ok(1));
        assert_eq!(parse("500ms"), Ok(500));
        assert_eq!(parse("5m"), Ok(300_000));
        assert_eq!(parse("2h 30m"), Ok(9_000_000));
        assert_eq!(parse(" 7d "), Ok(604_800_000));
        assert_eq!(parse("0s"), Ok(0));
        assert_eq!(parse("1000us"), Ok(1));
    }

    #[test]
    fn what_is_no_duration_is_explained() {
        let problem = |text| parse(text).err().unwrap_or_default();
        assert!(problem("15").contains("write `15s`"));
        assert!(problem("0").contains("lacks a unit"));
        assert!(problem("5x").contains("`x` is not a unit"));
        for text in ["", "soon", "-5s", "5m."] {
            assert!(problem(text).contains("is not a duration"), "{text}");
        }
        assert!(problem("1us").contains("too fine"));
        assert!(problem("1500us").contains("too fine"));
        assert!(problem("101 years").contains("too long"));
        assert!(problem("999999999999999999999 years").contains("cannot be used"));
        assert!(parse("100 years").is_ok());
    }

    #[test]
    fn zero_is_refused_where_it_means_nothing() {
        assert!(parse("0s").and_then(refuse_zero).is_err());
        assert!(parse_backoff("0s").is_err());
        assert!(parse_backoff("0s..5s").is_err());
    }

    #[test]
    fn a_rate_is_a_number_per_interval() {
        assert_eq!(parse_rate("100/1m"), Ok((100, 60_000)));
        assert_eq!(parse_rate("10 / s"), Ok((10, 1000)));
        assert_eq!(parse_rate("1/1h 30m"), Ok((1, 5_400_000)));
        let problem = |text| parse_rate(text).err().unwrap_or_default();
        assert!(problem("100").contains("is not a rate"));
        assert!(problem("0/1m").contains("at least 1"));
        assert!(problem("-1/1m").contains("at least 1"));
        assert!(problem("5/0s").contains("zero"));
        assert!(problem("5/10").contains("lacks a unit"));
        assert!(problem("5/").contains("is not a duration"));
    }

    #[test]
    fn a_backoff_is_a_range_or_constant() {
        assert_eq!(parse_backoff("15s..2h"), Ok((15_000, 7_200_000)));
        assert_eq!(parse_backoff("15s .. 15s"), Ok((15_000, 15_000)));
        assert_eq!(parse_backoff("30s"), Ok((30_000, 30_000)));
        let problem = |text| parse_backoff(text).err().unwrap_or_default();
        assert!(problem("2h..15s").ends_with("write `15s..2h`"));
        assert!(problem("15s..").contains("two ends"));
        assert!(problem("..2h").contains("two ends"));
        assert!(problem("15s..=2h").contains("`=2h` is not a duration"));
    }
}
