//! What this build cannot read of what is stored: it stops the attempt, and fails nothing.

use std::fmt;

use serde::de::DeserializeOwned;

/// Why an execution is left for another build. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    what: String,
    reason: String,
}

impl Unreadable {
    pub(crate) fn new(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, reason } = self;
        write!(f, "this build cannot read {what}: {reason}")
    }
}

impl std::error::Error for Unreadable {}

/// Reads JSON, or says why not: serde's words behind the field that they are about.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| {
        // To keep track of the field costs time, so only what is refused is read again with it.
        let mut again = serde_json::Deserializer::from_str(json);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(refused) => refused.path().to_string(),
            Ok(_) => ".".to_owned(),
        };
        match path.as_str() {
            "." => error.to_string(),
            path => format!("{path}: {error}"),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

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
            let text = read::<Order>(json).unwrap_err();
            assert!(text.starts_with(start), "{json}: {text}");
        }
    }
}
