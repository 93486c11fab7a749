//! Checks that Postgres can store JSON and return it, before it is sent.

use crate::path::told_at_end;

/// The largest payload, output or step value, in bytes of JSON: 16 MiB.
pub const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;

/// The deepest nesting of arrays and objects; serde_json can read at most 127.
pub const MAX_JSON_DEPTH: usize = 120;

/// The most characters of a number, and its largest exponent; the limits of Postgres' `numeric` are
/// only slightly higher.
const MAX_NUMBER: usize = 8000;

/// How many bytes of the JSON before a fault are shown.
const SHOWN: usize = 40;

/// Returns an error if Postgres would refuse this JSON, now or when it evaluates it, or if it could
/// not be read back.
///
/// The text must be valid JSON; only size, depth, numbers and `\u` escapes are checked.
pub(crate) fn check_storable(json: &str) -> Result<(), String> {
    if json.len() > MAX_JSON_BYTES {
        return Err(format!(
            "it has {} bytes of JSON and the limit is {MAX_JSON_BYTES}; store the data elsewhere and pass a reference",
            json.len()
        ));
    }
    let bytes = json.as_bytes();
    let (mut depth, mut deepest, mut at, mut in_string) = (0usize, 0usize, 0, false);
    while let Some(&byte) = bytes.get(at) {
        match (in_string, byte) {
            (true, b'\\') => match escape(bytes, at) {
                Ok(length) => at += length - 1,
                Err(fault) => return Err(told_at(json, at, &fault)),
            },
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (false, b'-' | b'0'..=b'9') => {
                let length = number(&bytes[at..]);
                if !fits(&json[at..at + length]) {
                    let fault = format!(
                        "a number has more than {MAX_NUMBER} digits or a larger exponent, which Postgres cannot compare; send it as a string"
                    );
                    return Err(told_at(json, at, &fault));
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    if deepest > MAX_JSON_DEPTH {
        return Err(format!(
            "it nests {deepest} levels deep and the limit is {MAX_JSON_DEPTH}"
        ));
    }
    Ok(())
}

/// Returns the length of the escape at this position, or why Postgres cannot read it.
fn escape(bytes: &[u8], at: usize) -> Result<usize, String> {
    match unit(bytes, at) {
        None => Ok(2),
        Some(0) => Err(
            "a string holds the character U+0000, which Postgres cannot store; send such data as base64"
                .to_owned(),
        ),
        Some(0xD800..=0xDBFF) if matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) => Ok(12),
        Some(half @ 0xD800..=0xDFFF) => Err(format!(
            "a string holds \\u{half:04x}, half of a surrogate pair, which is no character and which Postgres cannot read; it comes of cutting a text in the middle of one: cut between characters, or send such data as base64"
        )),
        Some(_) => Ok(6),
    }
}

/// Returns whether valid JSON has half of a surrogate pair in a string; parsers refuse that.
pub(crate) fn holds_half_a_pair(json: &str) -> bool {
    let bytes = json.as_bytes();
    let mut at = 0;
    // Backslashes occur only in strings.
    while let Some(next) = bytes[at..].iter().position(|&byte| byte == b'\\') {
        at += next;
        match escape(bytes, at) {
            Ok(length) => at = (at + length).min(bytes.len()),
            Err(_) if unit(bytes, at) == Some(0) => at += 6,
            Err(_) => return true,
        }
    }
    false
}

/// Returns the UTF-16 unit of a `\u` escape at this position, if there is one.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(br"\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Returns the length of the number at the beginning, in bytes.
fn number(bytes: &[u8]) -> usize {
    let belongs = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    bytes.iter().take_while(|byte| belongs(byte)).count()
}

/// Returns whether Postgres can hold the number as `numeric`, wherever it evaluates it.
fn fits(number: &str) -> bool {
    let exponent = number.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    number.len() <= MAX_NUMBER
        && exponent.is_none_or(|exponent| {
            let digits = exponent.trim_start_matches(['+', '-']);
            digits
                .parse::<usize>()
                .is_ok_and(|exponent| exponent <= MAX_NUMBER)
        })
}

/// Returns the text of a fault, with its field and its place in the JSON.
fn told_at(json: &str, at: usize, fault: &str) -> String {
    told_at_end(&json[..at], &format!("{fault} ({})", place(json, at)))
}

/// Returns the place of a fault in the JSON, for people.
fn place(json: &str, at: usize) -> String {
    let from = json
        .char_indices()
        .map(|(from, _)| from)
        .find(|from| at - from <= SHOWN)
        .unwrap_or(at);
    let dots = if from > 0 { "..." } else { "" };
    format!("byte {at} of the JSON, after `{dots}{}`", &json[from..at])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_found_wherever_it_is() {
        for bad in [
            r#"{"note":"\ud83d"}"#,
            r#"{"note":"\uDE00"}"#,
            r#"{"note":"\ude00\ud83d"}"#,
            r#"{"note":"\ud83d\ud83d\ude00"}"#,
            r#"{"note":"\ud83dx"}"#,
            r#"{"note":"\ud83d\\ude00"}"#,
            r#"{"\uD83D":1}"#,
            r#"[[{"a":[{"b\udc00":null}]}]]"#,
            r#""\ud83d\u0041""#,
        ] {
            let refusal = check_storable(bad).unwrap_err();
            assert!(refusal.contains("half of a surrogate pair"), "{refusal}");
            assert!(refusal.contains("of the JSON, after `"), "{refusal}");
        }
        for good in [
            r#"{"note":"\ud83d\ude00"}"#,
            r#""\uD83D\uDE00\u20ac""#,
            r#""\\ud83d""#,
            r#""\\\\ud83d \" \\""#,
            "\"\u{1F600}\"",
        ] {
            assert_eq!(check_storable(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_place_is_told_between_characters() {
        let json = format!("\"{}\\u0000\"", "\u{1F600}".repeat(30));
        let refusal = check_storable(&json).unwrap_err();
        assert!(refusal.contains("U+0000"), "{refusal}");
        assert!(refusal.contains("byte 121 of the JSON"), "{refusal}");
        assert!(refusal.contains("after `...\u{1F600}"), "{refusal}");
        let refusal = check_storable(r#"{"a":"\u0000"}"#).unwrap_err();
        assert!(
            refusal.contains(r#"byte 6 of the JSON, after `{"a":"`"#),
            "{refusal}"
        );
        for (bad, field) in [
            (
                r#"{"order":{"notes":["x","y\u0000"]}}"#,
                "order.notes[1]: a string",
            ),
            (r#"{"order":{"cents":1e9000}}"#, "order.cents: a number"),
            (r#""\u0000""#, "a string holds"),
        ] {
            let refusal = check_storable(bad).unwrap_err();
            assert!(refusal.starts_with(field), "{refusal}");
        }
    }

    #[test]
    fn numbers_end_where_those_of_the_database_do() {
        let long = "9".repeat(MAX_NUMBER + 1);
        for bad in [&long, "1e8001", "[-1.5E-8001]", "1e99999999999999999999"] {
            let refusal = check_storable(bad).unwrap_err();
            assert!(refusal.contains("a number"), "{refusal}");
        }
        let string = format!("\"{long} 1e9999\"");
        for good in [
            "0",
            "-1.5e-300",
            "[1,2.5E+8000,1e00001]",
            &long[1..],
            &string,
        ] {
            assert_eq!(check_storable(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn depth_and_size_are_limited() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(check_storable(&deep(MAX_JSON_DEPTH)).is_ok());
        assert!(check_storable(&deep(MAX_JSON_DEPTH + 1)).is_err());
        assert!(check_storable(&format!("\"{}\"", "x".repeat(MAX_JSON_BYTES))).is_err());
    }
}
