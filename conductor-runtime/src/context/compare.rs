//! Durable calls that were given something else than in the run that recorded them.

use std::time::Duration;

use serde_json::Value;

use super::TaskContext;
use super::input::Input;
use super::memo::NEW_INPUT;

/// How long a run waits for the record of a difference. Another transaction may have locked the execution.
const LONGEST: Duration = Duration::from_millis(250);

/// The key under which a difference is recorded. Keys of users cannot contain the control character.
const NEW_INPUT_KEY: &str = "\u{1f}";

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
        let step_writer = &durable.step_writer;
        let record = step_writer.record(id, claim, NEW_INPUT_KEY, kind, value, Default::default());
        if let Ok(Err(error)) = tokio::time::timeout(LONGEST, record).await {
            tracing::debug!(execution = %id, %error, "it is not recorded that a call was given something else");
        }
    }
}
