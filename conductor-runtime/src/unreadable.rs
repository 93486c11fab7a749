//! Stored values that this build cannot read. They stop the attempt without a failure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::path::told_at_end;
use crate::storable::holds_half_a_pair;

/// A stored value that cannot be read. It is left for another build, or, if no build can ever read
/// it, ends the execution. `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    what: String,
    refusal: Refusal,
}

impl Unreadable {
    pub(crate) fn new(what: impl Into<String>, refusal: impl Into<Refusal>) -> Self {
        Self {
            what: what.into(),
            refusal: refusal.into(),
        }
    }

    /// Returns whether no build can read it.
    pub(crate) fn is_for_good(&self) -> bool {
        self.refusal.is_no_json
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, refusal } = self;
        match refusal.is_no_json {
            false => write!(f, "this build cannot read {what}: {refusal}"),
            true => write!(
                f,
                "no build can read {what}, as it holds half of a surrogate pair, which is no character: {refusal}. \
                 Invoke the task again where that is mended (`show` has the value)"
            ),
        }
    }
}

impl std::error::Error for Unreadable {}

/// Why JSON cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    reason: String,
    /// Whether the text is at fault, whatever the type.
    is_no_json: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self {
            reason,
            is_no_json: false,
        }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<Refusal> for String {
    fn from(refusal: Refusal) -> Self {
        refusal.reason
    }
}

/// Parses JSON, or returns serde's error with the field that it is about.
pub(crate) fn read<'j, T: Deserialize<'j>>(json: &'j str) -> Result<T, Refusal> {
    serde_json::from_str(json).map_err(|error| {
        // Tracking the field is slow, so only JSON that failed is parsed a second time with it.
        let mut again = serde_json::Deserializer::from_str(json);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(refused) => refused.path().to_string(),
            Ok(_) => ".".to_owned(),
        };
        let reason = match path.as_str() {
            "." => error.to_string(),
            path => format!("{path}: {error}"),
        };
        // serde also reports numbers that are too large and nesting that is too deep as syntax
        // errors, but another type may accept those. A type that ignores the string accepts it and
        // meets no error here.
        let is_no_json = !error.is_data() && holds_half_a_pair(json);
        Refusal { reason, is_no_json }
    })
}

/// Writes JSON, or returns serde's error with the field that it is about.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| {
        // What was written before the error ends at the field.
        let mut written = Vec::new();
        let _ = serde_json::to_writer(&mut written, value);
        told_at_end(&String::from_utf8_lossy(&written), &error.to_string())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Order {
        n: i64,
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Item {
        at: chrono::DateTime<chrono::Utc>,
        size: Size,
    }

    #[derive(Debug, Deserialize)]
    enum Size {
        Small,
    }

    #[test]
    fn the_field_is_named() {
        for (json, start) in [
            (r#"{"n":"text"}"#, "n: invalid type"),
            (r#"{"n":1.5}"#, "n: invalid type"),
            (r#"{"n":1}"#, "missing field `items`"),
            (r#"{"n":1,"items":[{"at":"never"}]}"#, "items[0].at: "),
            (
                r#"{"n":1,"items":[{"at":"2026-01-01T00:00:00Z","size":"Large"}]}"#,
                "items[0].size: unknown variant",
            ),
            (
                r#"{"n":1,"items":[{"at":"2026-01-01T00:00:00Z"}]}"#,
                "items[0]: missing field `size`",
            ),
            ("null", "invalid type: null"),
            (r#"{"n":1,"items":[]} 5"#, "trailing characters"),
        ] {
            let refusal = read::<Order>(json).unwrap_err();
            assert!(!refusal.is_no_json, "{json}");
            let text = refusal.to_string();
            assert!(text.starts_with(start), "{json}: {text}");
        }
    }

    #[test]
    fn the_field_that_cannot_be_written_is_named() {
        #[derive(Serialize)]
        struct Order {
            methods: Vec<Method>,
        }
        #[derive(Serialize)]
        #[serde(tag = "kind")]
        enum Method {
            Card {
                shares: Option<BTreeMap<(u8, u8), u8>>,
            },
            Cash,
        }
        let shares = BTreeMap::from([((1, 2), 3)]);
        assert_eq!(write(&shares).unwrap_err(), "key must be a string");
        let shares = Some(shares);
        let methods = vec![Method::Cash, Method::Card { shares }];
        assert_eq!(
            write(&Some(Order { methods })).unwrap_err(),
            "methods[1].shares: key must be a string"
        );
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Note {
        n: f64,
        note: Option<String>,
    }

    #[test]
    fn only_what_no_build_can_read_is_refused_for_good() {
        for (json, for_good) in [
            (r#"{"n":1,"note":"\ud83d"}"#, true),
            (r#"{"n":1,"note":"\ud83d and on"}"#, true),
            (r#"{"n":1,"note":"\ude00\ud83d"}"#, true),
            (r#"{"n":1,"no\ud83dte":""}"#, true),
            // Another type could read these.
            (r#"{"n":"text","note":"\ud83d"}"#, false),
            (r#"{"n":1e999,"note":"text"}"#, false),
            (r#"{"n":"\ud83d\ude00"}"#, false),
            (r#"{"n":"\\ud83d"}"#, false),
            (r#"{"note":null}"#, false),
        ] {
            let refusal = read::<Note>(json).unwrap_err();
            assert_eq!(refusal.is_no_json, for_good, "{json}: {refusal}");
        }
        let ignored = r#"{"n":1,"other":"\ud83d"}"#;
        assert!(read::<Note>(ignored).is_ok());
    }
}
