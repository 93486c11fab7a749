//! The errors that a handler received: recorded if it continues after them, forgotten if its attempt ends with them.

use std::sync::Weak;

use uuid::Uuid;

use super::{Decided, Memo};
use crate::failure::Failure;

/// An error that the handler received and that is recorded, or will be if the handler continues.
#[derive(Debug)]
pub(super) struct GivenError {
    key: String,
    /// The key of the step that returned it; for a race, of a step of its winner.
    step: Option<String>,
    text: String,
    /// Whether the handler still holds it.
    alive: Weak<()>,
    /// The bodies in which the handler received it.
    within: Vec<usize>,
    /// The keys of the errors that were recorded inside its own body.
    inner: Vec<String>,
    /// Whether an earlier run recorded it.
    replayed: bool,
}

/// An error that the handler received, and that is recorded once the handler continues after it.
#[derive(Debug, Clone)]
pub(in crate::context) struct Unrecorded {
    pub(in crate::context) key: String,
    pub(in crate::context) kind: &'static str,
    pub(in crate::context) value: String,
    pub(in crate::context) decided: Decided,
    /// Its number among the errors of this run.
    number: usize,
}

impl GivenError {
    fn of(key: &str, error: &anyhow::Error) -> Self {
        Self {
            key: key.to_owned(),
            step: Failure::key_in(error),
            text: format!("{error:#}"),
            alive: Failure::alive_in(error),
            within: Vec::new(),
            inner: Failure::inner_in(error),
            replayed: false,
        }
    }
}

impl Memo {
    /// Notes that the handler receives an error, to be recorded under this key if the handler continues.
    pub(in crate::context) fn fail(
        &self,
        key: &str,
        kind: &'static str,
        value: String,
        decided: Decided,
        error: &anyhow::Error,
    ) {
        let mut given = GivenError::of(key, error);
        let mut present = self.present();
        given.within = present.inside.iter().map(|(_, body)| *body).collect();
        let number = present.errors;
        present.errors += 1;
        present.recorded.push(given);
        present.unrecorded.push(Unrecorded {
            key: key.to_owned(),
            kind,
            value,
            decided,
            number,
        });
    }

    /// Notes that the handler receives an error that an earlier run recorded.
    pub(in crate::context) fn fail_again(&self, key: &str, error: &anyhow::Error) {
        let mut given = GivenError::of(key, error);
        given.replayed = true;
        self.present().recorded.push(given);
    }

    /// Returns the keys of the recorded errors that an attempt ends with; the next attempt runs them again.
    pub(crate) fn ended_with(&self, error: &anyhow::Error) -> Vec<String> {
        let step = Failure::key_in(error);
        let text = format!("{error:#}");
        let present = self.present();
        let ends = |given: &&GivenError| match &step {
            Some(step) => given.step.as_ref() == Some(step),
            // A wrapper hides it, so the texts are compared. An error that was dropped was handled.
            None => {
                let before = text.strip_suffix(given.text.as_str());
                given.alive.strong_count() > 0
                    && before.is_some_and(|before| before.is_empty() || before.ends_with(": "))
            }
        };
        let ended = present.recorded.iter().filter(ends);
        ended
            .flat_map(|given| std::iter::once(&given.key).chain(&given.inner))
            .cloned()
            .collect()
    }

    /// Returns whether no step or race of this run failed by itself.
    pub(crate) fn only_replayed(&self) -> bool {
        self.present().recorded.iter().all(|given| given.replayed)
    }

    /// Returns the keys of the errors that were received inside this body.
    pub(in crate::context) fn errors_within(&self, body: usize) -> Vec<String> {
        let present = self.present();
        let within = present
            .recorded
            .iter()
            .filter(|given| given.within.contains(&body));
        within.map(|given| given.key.clone()).collect()
    }

    /// Returns the next error that the handler received and that is not recorded.
    pub(in crate::context) fn next_unrecorded(&self) -> Option<Unrecorded> {
        self.present().unrecorded.first().cloned()
    }

    /// Notes that an error is recorded.
    pub(in crate::context) fn note_recorded(&self, error: &Unrecorded) {
        let mut present = self.present();
        (present.unrecorded).retain(|unrecorded| unrecorded.number != error.number);
    }

    /// Stores the failure of a child, by its id.
    pub(in crate::context) fn note_child(&self, id: Uuid, failure: Failure) {
        self.present().children.insert(id, failure);
    }

    /// Returns the failure of a child.
    pub(crate) fn child(&self, id: Uuid) -> Option<Failure> {
        self.present().children.get(&id).cloned()
    }
}
