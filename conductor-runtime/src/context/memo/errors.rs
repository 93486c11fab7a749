//! The errors that a handler was given: recorded if it goes on from them, and forgotten if its attempt ends with them.

use std::sync::Weak;

use uuid::Uuid;

use super::{Decided, Memo};
use crate::failure::Failure;

/// An error that is recorded, and the handler was given.
#[derive(Debug)]
pub(super) struct GivenError {
    key: String,
    /// The step that gave it; of a race, one of its winner.
    step: Option<String>,
    text: String,
    /// Whether the handler still has it.
    alive: Weak<()>,
    /// The bodies in which it was given.
    within: Vec<usize>,
    /// The keys of the errors that were recorded inside of its own body.
    inner: Vec<String>,
}

/// An error that the handler was given, and that is recorded once it goes on from it.
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
        }
    }
}

impl Memo {
    /// The handler is given an error, which is recorded under this key if the handler goes on from it.
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

    /// The handler is given an error that an earlier run has recorded.
    pub(in crate::context) fn fail_again(&self, key: &str, error: &anyhow::Error) {
        let given = GivenError::of(key, error);
        self.present().recorded.push(given);
    }

    /// The keys of the recorded errors that an attempt ends with: the next one does them again.
    pub(crate) fn ended_with(&self, error: &anyhow::Error) -> Vec<String> {
        let step = Failure::key_in(error);
        let text = format!("{error:#}");
        let present = self.present();
        let ends = |given: &&GivenError| match &step {
            Some(step) => given.step.as_ref() == Some(step),
            // It is wrapped in what hides it. One that was dropped was dealt with.
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

    /// The keys of the errors that were given inside of this body.
    pub(in crate::context) fn errors_within(&self, body: usize) -> Vec<String> {
        let present = self.present();
        let within = present
            .recorded
            .iter()
            .filter(|given| given.within.contains(&body));
        within.map(|given| given.key.clone()).collect()
    }

    /// The next error that the handler was given and that is not recorded.
    pub(in crate::context) fn next_unrecorded(&self) -> Option<Unrecorded> {
        self.present().unrecorded.first().cloned()
    }

    /// An error is recorded.
    pub(in crate::context) fn note_recorded(&self, error: &Unrecorded) {
        let mut present = self.present();
        (present.unrecorded).retain(|unrecorded| unrecorded.number != error.number);
    }

    /// Keeps the failure of a child, by its id.
    pub(in crate::context) fn note_child(&self, id: Uuid, failure: Failure) {
        self.present().children.insert(id, failure);
    }

    /// The failure of a child.
    pub(crate) fn child(&self, id: Uuid) -> Option<Failure> {
        self.present().children.get(&id).cloned()
    }
}
