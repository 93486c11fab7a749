//! What a durable call was given, as a fingerprint that is stored beside its record.
//!
//! A replay compares it with its own. Two that differ mean that the handler does not do the same in each run: for
//! example, its keys are numbered in the order in which futures ended, and that order is another one now.

use std::time::Duration;

use md5::{Digest, Md5};
use serde_json::Value;

use super::TaskContext;
use crate::context::memo::NEW_INPUT;

/// Longer inputs are not compared: their fingerprints would cost more than they are worth.
const MAX_BYTES: usize = 64 * 1024;

/// How long a run waits for the record of a difference. Another transaction may have locked the execution.
const LONGEST: Duration = Duration::from_millis(250);

/// The key under which a difference is recorded. Keys of users cannot contain the control character.
const NEW_INPUT_KEY: &str = "\u{1f}";

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

impl TaskContext {
    /// Warns if the call under this key was given something else than in the run that recorded it.
    pub(super) fn compare(&self, key: &str, input: Option<Input>) {
        let Some(kind) = self.memo.note_input(key, input) else {
            return;
        };
        tracing::warn!(task = self.task, execution = %self.execution_id, key, kind,
            "this run does not do what an earlier one did: the call under this key was given something else then, and \
             what it has recorded is used. Name keys by what is handled, and not by the order in which it comes");
    }

    /// Records that a run gave something else to a call than the run that recorded it, so that people can see it.
    /// Nothing depends on it, so it is given up if it takes long; the next run finds it again.
    pub(crate) async fn record_new_input(&self) {
        let (Some(key), Some(durable)) = (self.memo.take_new_input(), &self.durable) else {
            return;
        };
        let _busy = self.memo.busy();
        let (kind, value) = (NEW_INPUT, Value::from(key).to_string());
        let (id, claim) = (self.execution_id, self.claim);
        let recorder = &durable.recorder;
        let record = recorder.record(id, claim, NEW_INPUT_KEY, kind, value, Default::default());
        if let Ok(Err(error)) = tokio::time::timeout(LONGEST, record).await {
            tracing::debug!(execution = %id, %error, "it is not recorded that a call was given something else");
        }
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
