use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::context::Wait;
use crate::error::{Verdict, verdict};

/// Longest error text that is stored.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// How an attempt ended, under the claim that it ran by.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) id: Uuid,
    pub(super) claim: i32,
    /// Who waits for the end.
    pub(super) parent: Option<Uuid>,
    pub(super) end: End,
}

#[derive(Debug, Clone)]
pub(super) enum End {
    /// The output as JSON.
    Completed(String),
    /// The error's text and what it says of the next attempt.
    Failed { error: String, verdict: Verdict },
    /// Every branch of the handler waits; what for, by key.
    Suspended(BTreeMap<String, Wait>),
    /// Not run to its end, and nobody's fault: another claim may follow at once.
    Released,
    /// As released, but not before its task's window opens.
    Postponed(DateTime<Utc>),
}

impl Outcome {
    /// About how much it adds to a message.
    pub(super) fn bytes(&self) -> usize {
        let text = match &self.end {
            End::Completed(output) => output.len(),
            End::Failed { error, .. } => error.len(),
            End::Suspended(waits) => waits
                .iter()
                .map(|(key, wait)| key.len() + wait.bytes())
                .sum(),
            End::Released | End::Postponed(_) => 0,
        };
        text + 32
    }
}

impl End {
    pub(super) fn failed(text: &str) -> Self {
        Self::Failed {
            error: storable(text),
            verdict: Verdict::Policy,
        }
    }

    pub(super) fn timed_out(timeout: Duration) -> Self {
        let timeout = humantime::format_duration(timeout);
        Self::failed(&format!("timed out after {timeout}"))
    }

    pub(super) fn permanent(text: &str) -> Self {
        Self::Failed {
            error: storable(text),
            verdict: Verdict::Permanent,
        }
    }

    pub(super) fn of(result: anyhow::Result<String>) -> Self {
        match result {
            Ok(output) => Self::Completed(output),
            Err(error) => Self::Failed {
                error: storable(&format!("{error:#}")),
                verdict: verdict(&error),
            },
        }
    }
}

/// A text that Postgres takes: no NUL, and not without end.
fn storable(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > MAX_ERROR_BYTES {
        let end = (0..=MAX_ERROR_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str(" … (cut)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::storable;

    #[test]
    fn texts_are_made_storable() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let long = storable(&"é".repeat(20_000));
        assert!(long.len() < 17_000 && long.ends_with("(cut)"));
    }
}
