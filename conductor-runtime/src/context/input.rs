//! What a durable call was given, as a fingerprint that is stored beside its record.
//!
//! A replay compares it with its own. Two that differ mean that the handler does not do the same in each run: for
//! example, its keys are numbered in the order in which futures ended, and that order is another one now.

use md5::{Digest, Md5};
use serde_json::Value;

/// Longer inputs are not compared: their fingerprints would cost more than they are worth.
const MAX_BYTES: usize = 64 * 1024;

/// A fingerprint of a name and of JSON, in which the order of an object's fields does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Input(pub(crate) i32);

impl Input {
    /// Returns `None` if there is nothing to compare.
    pub(super) fn of(name: &str, json: &str) -> Option<Self> {
        if json.len() > MAX_BYTES {
            return None;
        }
        let mut value: Value = serde_json::from_str(json).ok()?;
        // Without this, a build in which some crate has switched on `preserve_order` would compare maps by order.
        value.sort_all_objects();
        let digest = Md5::new()
            .chain_update(name)
            .chain_update([0])
            .chain_update(value.to_string())
            .finalize();
        let bytes: [u8; 16] = digest.into();
        let (first, _) = bytes.split_first_chunk()?;
        Some(Self(i32::from_le_bytes(*first)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_input_is_its_name_and_its_value() {
        let of = |name, json| Input::of(name, json).unwrap();
        assert_eq!(
            of("a", r#"{"x":1,"y":[1,2]}"#),
            of("a", r#"{ "y":[1,2], "x":1 }"#)
        );
        for (name, json) in [
            ("b", r#"{"x":1,"y":[1,2]}"#),
            ("a", r#"{"x":2,"y":[1,2]}"#),
            ("a", r#"{"x":1,"y":[2,1]}"#),
            ("a", "null"),
        ] {
            assert_ne!(
                of("a", r#"{"x":1,"y":[1,2]}"#),
                of(name, json),
                "{name} {json}"
            );
        }
        // The same in every build: it is stored.
        assert_eq!(of("a", "null").0, 1_397_985_196);
    }

    #[test]
    fn a_large_one_is_not_compared() {
        let large = format!("\"{}\"", "x".repeat(MAX_BYTES));
        assert_eq!(Input::of("a", &large), None);
    }
}
