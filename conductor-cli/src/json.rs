//! Reformats stored JSON. It works on the text instead of parsed values, so numbers and the order of
//! fields stay as they are.

use std::iter::repeat_n;

use serde::Serialize;

use super::output::obeyed;

/// Returns a JSON object of members whose values are JSON.
pub(crate) fn object<'n>(members: impl IntoIterator<Item = (&'n str, String)>) -> String {
    let members: Vec<String> = members
        .into_iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// Returns a JSON array of values that are JSON.
pub(crate) fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

/// Returns the JSON of each item on one line, with stored values as they were written.
pub(crate) fn lines<T: Serialize>(items: &[T]) -> serde_json::Result<Vec<String>> {
    items
        .iter()
        .map(|item| Ok(compact(&serde_json::to_string(item)?)))
        .collect()
}

/// Formats JSON on one line.
pub(crate) fn compact(json: &str) -> String {
    lay_out(json, None)
}

/// Formats JSON on several lines, each after `indent`.
pub(crate) fn pretty(json: &str, indent: &str) -> String {
    lay_out(json, Some(indent))
}

fn lay_out(json: &str, indent: Option<&str>) -> String {
    let mut out = String::with_capacity(json.len());
    out.push_str(indent.unwrap_or_default());
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.push_str(indent);
            out.extend(repeat_n("  ", depth));
        }
    };
    let mut depth = 0usize;
    let mut rest = json;
    while !rest.is_empty() {
        // An empty object or array contains no string, so its end is in this part.
        let (between, string) = rest.split_at(rest.find('"').unwrap_or(rest.len()));
        let mut between = between.chars().peekable();
        while let Some(c) = between.next() {
            match c {
                ' ' | '\t' | '\n' | '\r' => {}
                '{' | '[' => {
                    out.push(c);
                    while between.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                    match between.next_if(|c| matches!(c, '}' | ']')) {
                        Some(end) => out.push(end),
                        None => {
                            depth += 1;
                            new_line(&mut out, depth);
                        }
                    }
                }
                '}' | ']' => {
                    depth = depth.saturating_sub(1);
                    new_line(&mut out, depth);
                    out.push(c);
                }
                ',' => {
                    out.push(c);
                    new_line(&mut out, depth);
                }
                ':' if indent.is_some() => out.push_str(": "),
                _ => out.push(c),
            }
        }
        rest = copy_string(string, &mut out);
    }
    out
}

/// Copies a string with its quotes and returns the rest of the text. [`obeyed`] characters are escaped, which JSON
/// permits. Runs of plain characters, which are most of the output, are copied as a whole.
fn copy_string<'j>(json: &'j str, out: &mut String) -> &'j str {
    let special = |byte: &u8| matches!(byte, ..0x20 | b'"' | b'\\' | 0x7f..);
    let (quote, mut rest) = json.split_at(json.len().min(1));
    out.push_str(quote);
    loop {
        let plain = rest.as_bytes().iter().position(special);
        let (plain, special) = rest.split_at(plain.unwrap_or(rest.len()));
        out.push_str(plain);
        let mut chars = special.chars();
        match chars.next() {
            Some('"') => {
                out.push('"');
                return chars.as_str();
            }
            Some('\\') => {
                out.push('\\');
                out.extend(chars.next());
            }
            Some(c) if obeyed(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            Some(c) => out.push(c),
            None => return "",
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::{compact, pretty};

    #[test]
    fn only_white_space_between_tokens_changes() {
        let json =
            " {\"b\": [1.0, 18446744073709551616 , {}],\n \"a\" : \"x , \\\" {\" , \"c\":[ ]} ";
        assert_eq!(
            compact(json),
            r#"{"b":[1.0,18446744073709551616,{}],"a":"x , \" {","c":[]}"#
        );
        assert_eq!(
            pretty("{\"a\":[1,2],\"b\":{}}", "  "),
            "  {\n    \"a\": [\n      1,\n      2\n    ],\n    \"b\": {}\n  }"
        );
    }

    #[test]
    fn what_a_terminal_might_obey_is_escaped() {
        assert_eq!(compact("\"\u{9b}31m\u{7f}\""), r#""\u009b31m\u007f""#);
        assert_eq!(compact("\"\u{202e}\""), r#""\u202e""#);
        assert_eq!(
            compact("\"gr\u{f6}\u{df}e\\\\\" "),
            "\"gr\u{f6}\u{df}e\\\\\""
        );
    }
}
