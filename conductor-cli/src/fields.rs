//! Reads `field=value …` arguments into a payload, by the JSON Schema of the task.

use std::ffi::{OsStr, OsString};

use conductor_core::nearest;
use serde_json::Value;
use serde_json::value::RawValue;

use super::schema::{self, Fields, Want, describe};

/// The maximum length of a value in an error message.
const MAX_SHOWN: usize = 60;

/// Returns the payload as JSON, or everything that is wrong with the arguments.
pub(crate) fn payload(schema: &Value, arguments: &[OsString]) -> Result<String, Vec<String>> {
    let arguments = texts(arguments)?;
    let wants = schema::wants(schema);
    let takes_null = wants
        .iter()
        .any(|want| matches!(want, Want::Null | Want::Any));
    let fields = match (schema::fields(schema), arguments.as_slice()) {
        (_, []) if takes_null => return Ok("null".to_owned()),
        (Some(fields), _) => fields,
        (None, [only]) if wants != [Want::Null] => {
            return value(&wants, only).ok_or_else(|| {
                vec![format!(
                    "it wants {}, got {}",
                    describe(&wants),
                    shown(only)
                )]
            });
        }
        (None, []) => return Err(vec![format!("it wants {}, got nothing", describe(&wants))]),
        (None, _) if wants == [Want::Null] => {
            return Err(vec!["the task takes no payload".to_owned()]);
        }
        (None, several) => {
            return Err(vec![format!(
                "it wants {} as one argument, got {}",
                describe(&wants),
                several.len()
            )]);
        }
    };
    let bare: Vec<Want> = wants
        .into_iter()
        .filter(|want| *want != Want::Object)
        .collect();
    match arguments.as_slice() {
        [only] if !bare.is_empty() && !only.contains('=') => value(&bare, only)
            .ok_or_else(|| vec![format!("it wants {}, got {}", describe(&bare), shown(only))]),
        _ => object(&fields, &arguments),
    }
}

/// Returns the arguments of a task for a usage line, such as `name=<a string> [times=<an integer>]`.
pub(crate) fn usage(schema: &Value) -> String {
    let Some(fields) = schema::fields(schema) else {
        let wants = schema::wants(schema);
        return if wants == [Want::Null] {
            String::new()
        } else {
            format!("<{}>", describe(&wants))
        };
    };
    let one = |name: &String, wants: &Vec<Want>| format!("{name}=<{}>", describe(wants));
    let required = fields
        .known
        .iter()
        .filter(|(name, _)| fields.required.contains(*name));
    let optional = fields
        .known
        .iter()
        .filter(|(name, _)| !fields.required.contains(*name));
    let mut parts: Vec<String> = required.map(|(name, wants)| one(name, wants)).collect();
    parts.extend(optional.map(|(name, wants)| format!("[{}]", one(name, wants))));
    if let Some(others) = &fields.others {
        parts.push(format!("[field=<{}> …]", describe(others)));
    }
    parts.join(" ")
}

/// Returns example values for the required arguments of a task, quoted for a shell.
pub(crate) fn sample(schema: &Value) -> String {
    let one = |wants: &[Want]| match wants.first() {
        Some(Want::Boolean) => "true".to_owned(),
        Some(Want::Integer(_)) => "1".to_owned(),
        Some(Want::Number(_)) => "1.5".to_owned(),
        Some(Want::Choice(choice)) => choice
            .as_str()
            .map_or_else(|| choice.to_string(), str::to_owned),
        Some(Want::Array) => "'[]'".to_owned(),
        Some(Want::Object) => "'{}'".to_owned(),
        _ => "text".to_owned(),
    };
    match schema::fields(schema) {
        Some(fields) => fields
            .known
            .iter()
            .filter(|(name, _)| fields.required.contains(*name))
            .map(|(name, wants)| format!(" {name}={}", one(wants)))
            .collect(),
        None => match schema::wants(schema).as_slice() {
            [Want::Null] => String::new(),
            wants => format!(" {}", one(wants)),
        },
    }
}

/// Returns an example of the payload as JSON, with its required fields.
pub(crate) fn sample_json(schema: &Value) -> String {
    let one = |wants: &[Want]| match wants.first() {
        Some(Want::Null) => "null".to_owned(),
        Some(Want::Boolean) => "true".to_owned(),
        Some(Want::Integer(_)) => "1".to_owned(),
        Some(Want::Number(_)) => "1.5".to_owned(),
        Some(Want::Choice(choice)) => choice.to_string(),
        Some(Want::Array) => "[]".to_owned(),
        Some(Want::Object) => "{}".to_owned(),
        _ => "\"text\"".to_owned(),
    };
    let Some(fields) = schema::fields(schema) else {
        return one(&schema::wants(schema));
    };
    let members = fields
        .known
        .iter()
        .filter(|(name, _)| fields.required.contains(*name))
        .map(|(name, wants)| format!("{}: {}", Value::from(name.as_str()), one(wants)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
}

fn texts(arguments: &[OsString]) -> Result<Vec<&str>, Vec<String>> {
    let texts: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .collect();
    if texts.len() == arguments.len() {
        return Ok(texts);
    }
    let broken = |argument: &&OsString| argument.to_str().is_none();
    Err(arguments
        .iter()
        .filter(broken)
        .map(|argument| format!("{} is not valid UTF-8", lossy(argument)))
        .collect())
}

fn lossy(argument: &OsStr) -> String {
    shown(&argument.to_string_lossy())
}

fn object(fields: &Fields, arguments: &[&str]) -> Result<String, Vec<String>> {
    let mut problems = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut members: Vec<String> = Vec::new();
    for argument in arguments {
        let Some((before, text)) = argument.split_once('=') else {
            problems.push(no_field(fields, argument));
            continue;
        };
        let (name, forced) = match before.strip_suffix(':') {
            Some(name) => (name, true),
            None => (before, false),
        };
        if seen.contains(&name) {
            problems.push(format!("field {name} is given twice"));
            continue;
        }
        seen.push(name);
        let Some(wants) = fields.known.get(name).or(fields.others.as_ref()) else {
            problems.push(unknown(fields, name));
            continue;
        };
        let json = if forced {
            raw(text).map(|_| text.to_owned()).map_err(|error| {
                format!(
                    "field {name} is given as JSON by `:=`, but {} is none: {error}",
                    shown(text)
                )
            })
        } else {
            value(wants, text).ok_or_else(|| {
                format!(
                    "field {name} wants {}, got {}",
                    describe(wants),
                    shown(text)
                )
            })
        };
        match json {
            Ok(json) => members.push(format!("{}:{json}", Value::from(name))),
            Err(problem) => problems.push(problem),
        }
    }
    let nothing = Vec::new();
    for name in fields
        .required
        .iter()
        .filter(|name| !seen.contains(&name.as_str()))
    {
        let wants = fields.known.get(name).unwrap_or(&nothing);
        problems.push(format!("missing field {name} ({})", describe(wants)));
    }
    if problems.is_empty() {
        Ok(format!("{{{}}}", members.join(",")))
    } else {
        Err(problems)
    }
}

fn no_field(fields: &Fields, argument: &str) -> String {
    let mut hint = String::new();
    if fields.known.len() == 1
        && let Some(name) = fields.known.keys().next()
    {
        hint = format!("; did you mean {}?", shell(&format!("{name}={argument}")));
    }
    format!("{} is not of the form field=value{hint}", shown(argument))
}

fn unknown(fields: &Fields, name: &str) -> String {
    let known = || fields.known.keys().map(String::as_str);
    let hint = match nearest(name, known()) {
        Some(near) => format!("; did you mean {near}?"),
        None if fields.known.is_empty() => "; the task takes none".to_owned(),
        None => format!(
            "; the fields are {}",
            known().collect::<Vec<_>>().join(", ")
        ),
    };
    format!("unknown field {name}{hint}")
}

/// Returns the JSON of a value if it matches one of the accepted kinds.
fn value(wants: &[Want], text: &str) -> Option<String> {
    let string = || Value::from(text).to_string();
    if wants
        .iter()
        .any(|want| matches!(want, Want::Choice(Value::String(choice)) if choice == text))
    {
        return Some(string());
    }
    let takes_text = wants.iter().any(|want| matches!(want, Want::Text(_)));
    let takes_any = wants.contains(&Want::Any);
    if let Ok(parsed) = raw(text) {
        let trimmed = text.trim();
        // If a string is accepted, `null` and `"x"` with its quotes are read as strings.
        let fits = |want: &Want| match want {
            Want::Text(_) | Want::Any => false,
            Want::Null => !takes_text && parsed.is_null(),
            want => want.fits(&parsed, trimmed),
        };
        if wants.iter().any(fits) || takes_any && !takes_text {
            return Some(trimmed.to_owned());
        }
    }
    (takes_text || takes_any).then(string)
}

/// Parses JSON for inspection only. The text itself is sent, so that no digit is lost.
fn raw(text: &str) -> Result<Value, serde_json::Error> {
    let raw: &RawValue = serde_json::from_str(text)?;
    // A number beyond the range of f64 is valid JSON, but not a `serde_json::Value`.
    Ok(serde_json::from_str(raw.get()).unwrap_or(Value::from(f64::MAX)))
}

fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// Quotes a text for a shell if necessary.
pub(crate) fn shell(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./:,@%+".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use schemars::{JsonSchema, schema_for};

    use super::*;

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    #[serde(deny_unknown_fields)]
    struct Order {
        item: String,
        quantity: u8,
        size: Option<Size>,
        note: Option<String>,
        gift: Option<bool>,
        tags: Option<Vec<String>>,
        big: Option<i128>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    #[serde(rename_all = "lowercase")]
    enum Size {
        /// For one.
        Small,
        /// For two.
        Large,
    }

    fn read<T: JsonSchema>(arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        payload(schema_for!(T).as_value(), &arguments).map_err(|problems| problems.join("\n"))
    }

    #[test]
    fn values_are_read_as_their_fields_want_them() {
        assert_eq!(
            read::<Order>(&[
                "item=42",
                "quantity=3",
                "size=small",
                "note=null",
                "gift=true"
            ])
            .unwrap(),
            r#"{"item":"42","quantity":3,"size":"small","note":"null","gift":true}"#
        );
        assert_eq!(
            read::<Order>(&["item=a=b", "quantity:=3", "note:=null", "tags=[\"x\"]"]).unwrap(),
            r#"{"item":"a=b","quantity":3,"note":null,"tags":["x"]}"#
        );
        assert_eq!(
            read::<Order>(&[
                "item=",
                "quantity=1",
                "size=null",
                "big=-170141183460469231731687303715884105728"
            ])
            .unwrap(),
            r#"{"item":"","quantity":1,"size":null,"big":-170141183460469231731687303715884105728}"#
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        assert_eq!(
            read::<Order>(&[
                "quantity=abc",
                "size=huge",
                "nte=x",
                "gift=yes",
                "gift=no",
                "loose"
            ])
            .unwrap_err(),
            "field quantity wants an integer from 0 to 255, got \"abc\"\n\
             field size wants one of small, large or null, got \"huge\"\n\
             unknown field nte; did you mean note?\n\
             field gift wants true or false or null, got \"yes\"\n\
             field gift is given twice\n\
             \"loose\" is not of the form field=value\n\
             missing field item (a string)"
        );
        assert!(read::<Order>(&["item=x", "quantity=256"]).is_err());
        assert!(read::<Order>(&["item=x", "quantity=1.0"]).is_err());
        assert!(
            read::<Order>(&["item=x", "quantity=1", "tags:=[x"])
                .unwrap_err()
                .contains("`:=`")
        );
    }

    #[test]
    fn a_payload_that_is_no_object_is_one_bare_value() {
        assert_eq!(read::<String>(&["a=b"]).unwrap(), "\"a=b\"");
        assert_eq!(read::<i64>(&["-5"]).unwrap(), "-5");
        assert_eq!(read::<Vec<i64>>(&["[1, 2]"]).unwrap(), "[1, 2]");
        assert_eq!(read::<()>(&[]).unwrap(), "null");
        assert_eq!(read::<Option<Order>>(&[]).unwrap(), "null");
        assert_eq!(
            read::<()>(&["a=1"]).unwrap_err(),
            "the task takes no payload"
        );
        assert_eq!(
            read::<i64>(&["x"]).unwrap_err(),
            "it wants an integer, got \"x\""
        );
        assert!(read::<i64>(&[]).unwrap_err().contains("got nothing"));
    }

    #[test]
    fn open_objects_and_untyped_payloads_take_what_comes() {
        use std::collections::HashMap;
        assert_eq!(
            read::<HashMap<String, i32>>(&["a=1"]).unwrap(),
            r#"{"a":1}"#
        );
        assert!(read::<HashMap<String, i32>>(&["a=x"]).is_err());
        assert_eq!(
            read::<Value>(&["a=1", "b=x"]).unwrap(),
            r#"{"a":1,"b":"x"}"#
        );
        assert_eq!(read::<Value>(&["x"]).unwrap(), "\"x\"");
        assert_eq!(read::<Value>(&[]).unwrap(), "null");
    }

    #[test]
    fn a_usage_line_names_all_fields() {
        assert_eq!(
            usage(schema_for!(Order).as_value())
                .split(" [")
                .next()
                .unwrap(),
            "item=<a string> quantity=<an integer from 0 to 255>"
        );
        assert_eq!(
            sample(schema_for!(Order).as_value()),
            " item=text quantity=1"
        );
    }
}
