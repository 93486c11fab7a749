use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::store::Claim;
use uuid::Uuid;

use crate::context::Waiting;
use crate::failure::Failure;
use crate::panics::Panicked;
use crate::unreadable::Unreadable;
use crate::verdict::{Verdict, verdict};

/// The longest error text that is stored, in bytes.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// How an attempt ended, and the claim under which it ran.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) id: Uuid,
    pub(super) claim: Claim,
    /// The parent that waits for the end.
    pub(super) parent: Option<Uuid>,
    pub(super) end: End,
    weight: Weight,
}

/// How many bytes of outcomes a worker holds, until they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct Unwritten(Arc<AtomicUsize>);

impl Unwritten {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The share of one outcome in these bytes; dropping it subtracts them.
#[derive(Debug)]
struct Weight {
    of: Unwritten,
    bytes: usize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
pub(super) enum End {
    /// The output as JSON.
    Completed(String),
    /// The error's text; its code and details, if any; its verdict on the next attempt; the keys of the recorded
    /// errors that it consists of, whose steps the next attempt runs again; and whether earlier attempts had recorded
    /// these, and no step failed in this one.
    Failed {
        error: String,
        failure: Option<String>,
        verdict: Verdict,
        forgotten: Vec<String>,
        replayed: bool,
    },
    /// Every branch of the handler waits; the waits, by key.
    Suspended(Waiting),
    /// It did not run to its end and is not charged: another claim may follow at once.
    Released,
    /// Like `Released`, but not before its task's window opens.
    Postponed(DateTime<Utc>),
    /// Like `Released`, but for a build that can read what this one cannot; with the reason.
    Unreadable(String),
}

impl Outcome {
    pub(super) fn new(
        id: Uuid,
        claim: Claim,
        parent: Option<Uuid>,
        end: End,
        unwritten: &Unwritten,
    ) -> Self {
        let bytes = end.bytes();
        unwritten.0.fetch_add(bytes, Ordering::Relaxed);
        let of = unwritten.clone();
        Self {
            id,
            claim,
            parent,
            end,
            weight: Weight { of, bytes },
        }
    }

    /// Replaces the end, and its size in the count.
    pub(super) fn replace(&mut self, end: End) {
        let of = self.weight.of.clone();
        let bytes = end.bytes();
        of.0.fetch_add(bytes, Ordering::Relaxed);
        self.end = end;
        self.weight = Weight { of, bytes };
    }

    /// Returns whether the execution ends with it, as far as is known: a failed one may be retried.
    pub(super) fn is_end(&self) -> bool {
        matches!(self.end, End::Completed(_) | End::Failed { .. })
    }

    /// Returns approximately how many bytes it adds to a message.
    pub(super) fn bytes(&self) -> usize {
        self.end.bytes() + 32
    }
}

impl End {
    fn bytes(&self) -> usize {
        match self {
            Self::Completed(output) => output.len(),
            Self::Failed {
                error,
                failure,
                forgotten,
                ..
            } => {
                let keys = forgotten.iter().map(|key| 32 + key.len());
                error.len() + failure.as_ref().map_or(0, String::len) + keys.sum::<usize>()
            }
            Self::Suspended(waiting) => {
                let waits = (waiting.waits.iter()).map(|(key, wait)| key.len() + wait.bytes());
                let keys = waiting.withdrawn.iter().chain(&waiting.had);
                waits.chain(keys.map(|key| 32 + key.len())).sum()
            }
            Self::Unreadable(reason) => reason.len(),
            Self::Released | Self::Postponed(_) => 0,
        }
    }

    pub(super) fn failed(text: &str) -> Self {
        Self::Failed {
            error: storable(text),
            failure: None,
            forgotten: Vec::new(),
            replayed: false,
            verdict: Verdict::Policy,
        }
    }

    pub(super) fn panicked(panicked: &Panicked) -> Self {
        match panicked.permanent {
            true => Self::permanent(&panicked.text),
            false => Self::failed(&panicked.text),
        }
    }

    pub(super) fn timed_out(timeout: Duration) -> Self {
        let timeout = humantime::format_duration(timeout);
        Self::failed(&format!("timed out after {timeout}"))
    }

    /// Returns what an end after the timeout becomes.
    pub(super) fn late(self, timeout: Duration) -> Self {
        match self {
            Self::Completed(_) | Self::Suspended(_) => Self::timed_out(timeout),
            // The error tells more than the timeout, for example that it is permanent.
            Self::Failed { .. } => self,
            // These may be interrupted at any time, and begin anew.
            Self::Released | Self::Postponed(_) | Self::Unreadable(_) => self,
        }
    }

    pub(super) fn permanent(text: &str) -> Self {
        Self::Failed {
            error: storable(text),
            failure: None,
            forgotten: Vec::new(),
            replayed: false,
            verdict: Verdict::Permanent,
        }
    }

    /// Leaves it to another build, or fails it if no build can read it.
    pub(super) fn unreadable(unreadable: &Unreadable) -> Self {
        let text = unreadable.to_string();
        match unreadable.is_for_good() {
            true => Self::permanent(&text),
            false => Self::Unreadable(storable(&text)),
        }
    }

    pub(super) fn of(result: anyhow::Result<String>) -> Self {
        match result {
            Ok(output) => Self::Completed(output),
            Err(error) => Self::of_error(&error, verdict(&error), &Failure::of(&error)),
        }
    }

    /// Sets the keys of the steps that the next attempt runs again.
    pub(super) fn forgetting(mut self, keys: Vec<String>, only_replayed: bool) -> Self {
        if let Self::Failed {
            forgotten,
            replayed,
            ..
        } = &mut self
        {
            *replayed = only_replayed && !keys.is_empty();
            *forgotten = keys;
        }
        self
    }

    pub(super) fn of_error(error: &anyhow::Error, verdict: Verdict, failure: &Failure) -> Self {
        Self::Failed {
            error: storable(&format!("{error:#}")),
            failure: failure.to_end(),
            forgotten: Vec::new(),
            replayed: false,
            verdict,
        }
    }
}

/// Returns a text that Postgres can store, of limited length.
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
    use std::time::Duration;

    use uuid::Uuid;

    use conductor_postgres::store::Claim;

    use super::{End, Outcome, Unwritten, storable};
    use crate::verdict::Verdict;

    #[test]
    fn behind_the_timeout_a_success_has_timed_out_and_an_error_stays_as_it_is() {
        let second = Duration::from_secs(1);
        for (end, text, permanent) in [
            (End::Completed("1".to_owned()), "timed out after 1s", false),
            (End::permanent("no such card"), "no such card", true),
        ] {
            let End::Failed { error, verdict, .. } = end.late(second) else {
                panic!("{text} has not failed");
            };
            assert_eq!(error, text);
            assert_eq!(matches!(verdict, Verdict::Permanent), permanent);
        }
    }

    #[test]
    fn what_waits_is_counted_as_it_is_now() {
        let unwritten = Unwritten::default();
        let end = End::Completed("x".repeat(1000));
        let mut outcome = Outcome::new(Uuid::nil(), Claim::default(), None, end, &unwritten);
        assert_eq!(unwritten.bytes(), 1000);
        outcome.replace(End::permanent("refused"));
        assert_eq!(unwritten.bytes(), 7);
        drop(outcome);
        assert_eq!(unwritten.bytes(), 0);
    }

    #[test]
    fn texts_are_made_storable() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let long = storable(&"é".repeat(20_000));
        assert!(long.len() < 17_000 && long.ends_with("(cut)"));
    }
}
