//! Encodes and decodes the JSON in the database.

mod fields;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
pub(crate) use crate::storable::check_storable;
pub use crate::storable::{MAX_JSON_BYTES, MAX_JSON_DEPTH};
use crate::task::Task;
use crate::unreadable::{Refusal, Unreadable, read, write};

/// The largest size of all records of one execution together, in bytes of JSON: 256 MiB.
///
/// They are loaded at once whenever the execution continues. `conductor.most_records` returns the same.
pub const MAX_RECORDS_BYTES: usize = 256 * 1024 * 1024;

pub(crate) fn schema_of<T: JsonSchema>() -> schemars::Schema {
    schemars::schema_for!(T)
}

/// Returns the first name of a path that JSON of this schema cannot have. A schema that does not list its fields
/// allows all names.
pub(crate) fn unknown_field<'p>(
    schema: &Value,
    path: impl IntoIterator<Item = &'p str>,
) -> Option<&'p str> {
    let mut at = schema;
    for field in path {
        at = resolved(schema, at);
        let properties = at.get("properties").and_then(Value::as_object)?;
        let is_open = at
            .get("additionalProperties")
            .is_some_and(|more| more != false);
        match properties.get(field) {
            Some(found) => at = found,
            None if is_open => return None,
            None => return Some(field),
        }
    }
    None
}

/// Resolves a reference, or the reference inside the schema of an `Option`.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let inner = ["anyOf", "allOf", "oneOf"].iter().find_map(|of| {
        let schemas = schema.get(of)?.as_array()?;
        schemas.iter().find(|schema| schema.get("$ref").is_some())
    });
    let reference = inner.unwrap_or(schema).get("$ref").and_then(Value::as_str);
    reference
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
        .unwrap_or(schema)
}

/// Parses a payload, or returns why it cannot. A task without payload accepts `null` and `{}`.
pub(crate) fn decode<T: DeserializeOwned + 'static>(json: &str) -> std::result::Result<T, Refusal> {
    let unit = std::any::TypeId::of::<T>() == std::any::TypeId::of::<()>();
    read(if unit && json.trim() == "{}" {
        "null"
    } else {
        json
    })
}

/// Returns an error if new JSON has a name that a generated struct does not have. In new JSON that is a mistake; in
/// stored JSON, which a worker accepts, it comes from another build.
pub(crate) fn unknown_name<T: DeserializeOwned + JsonSchema>(json: &str) -> Option<String> {
    let given: std::collections::BTreeMap<String, serde::de::IgnoredAny> =
        serde_json::from_str(json).ok()?;
    let known = fields::fields_of::<T>()?;
    let name = given.keys().find(|name| !known.contains(&name.as_str()))?;
    // The schema tells whether the type accepts unknown names.
    let schema = schema_of::<T>();
    if schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        return None;
    }
    let hint = match conductor_core::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "the task takes none".to_owned(),
        None => format!("the fields are {}", known.join(", ")),
    };
    Some(format!("unknown field `{name}`; {hint}"))
}

/// Parses a stored payload.
pub(crate) fn decode_payload<T: Task>(json: &str) -> std::result::Result<T::Payload, Unreadable> {
    decode(json).map_err(|reason| Unreadable::new("its payload", reason))
}

pub(crate) fn encode_payload<T: Task>(payload: &T::Payload) -> Result<String> {
    match encode_readable(payload) {
        Ok((json, _)) => Ok(json),
        Err(reason) => {
            let task = T::NAME.to_owned();
            Err(Error::Payload { task, reason })
        }
    }
}

/// Encodes a value and parses it again, or returns why it cannot be stored. Callers continue with the parsed value,
/// as every replay does. Without this check, a value that its own type cannot parse would wait for another build, and
/// none could help.
pub(crate) fn encode_readable<T: Serialize + DeserializeOwned>(
    value: &T,
) -> std::result::Result<(String, T), String> {
    let json = encode(value)?;
    match read(&json) {
        Ok(value) => Ok((json, value)),
        Err(reason) => Err(format!(
            "its type cannot read its own JSON again: {reason}. A float that is NaN or infinite is null in JSON: \
             check for it, or make the field an Option; else let what serde writes and reads of the type agree"
        )),
    }
}

/// Encodes a value, or returns why it cannot be stored.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> std::result::Result<String, String> {
    let json = write(value)?;
    check_storable(&json)?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nul_is_found_and_an_escaped_backslash_is_not_one() {
        assert!(encode("a\0b").unwrap_err().contains("U+0000"));
        assert_eq!(encode("a\\u0000").unwrap(), r#""a\\u0000""#);
        assert_eq!(encode("quote \" then [").unwrap(), r#""quote \" then [""#);
    }

    #[test]
    fn what_cannot_be_read_again_is_not_stored() {
        #[derive(Debug, Serialize, serde::Deserialize)]
        struct Offer {
            prices: Vec<f64>,
            note: Option<f64>,
        }
        let offer = |price, note| Offer {
            prices: vec![1.0, price],
            note,
        };
        for bad in [f64::NAN, f64::INFINITY] {
            let text = encode_readable(&offer(bad, None)).unwrap_err();
            assert!(text.contains("prices[1]: invalid type: null"), "{text}");
        }
        // An option reads null, whether it comes from NaN or from `None`.
        for good in [offer(1.0, Some(f64::NAN)), offer(1.0, None)] {
            let (_, read) = encode_readable(&good).unwrap();
            assert_eq!(read.note, None);
        }

        #[derive(Debug, Serialize, serde::Deserialize)]
        struct OneSided {
            #[serde(skip_deserializing, default)]
            gone: i64,
            #[serde(serialize_with = "as_text")]
            n: i64,
        }
        fn as_text<S: serde::Serializer>(
            n: &i64,
            serializer: S,
        ) -> std::result::Result<S::Ok, S::Error> {
            serializer.collect_str(n)
        }
        let text = encode_readable(&OneSided { gone: 1, n: 2 }).unwrap_err();
        assert!(text.contains("n: invalid type: string"), "{text}");
    }

    #[test]
    fn no_payload_reads_null_and_an_empty_object() {
        assert!(decode::<()>("{}").is_ok());
        assert!(decode::<()>("null").is_ok());
        assert!(decode::<()>("{\"a\":1}").is_err());
    }
}
