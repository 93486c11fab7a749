//! What a handler's error says about its retries, however it is wrapped.
//!
//! An error that was given a verdict is found in the chain of sources, by its type. Behind
//! `#[error(transparent)]` it is not: such a variant shows the error's text and passes on the error's source, so that the
//! error itself is in no chain. So an attempt also keeps the texts of the errors that were judged in it, and an
//! error that reads like one of them, while that lives, has its verdict.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::Error;
use crate::failure::Failure;

/// What an error says about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// As the task's retry policy has it.
    Policy,
    /// No further attempt.
    Permanent,
    /// The next attempt after this delay, if attempts are left.
    After(Duration),
}

/// Implemented by error types that know what the next attempt should be, and named once by
/// `conductor::retry_verdicts!`, so that it is found in whatever wraps a value of the type.
///
/// ```
/// use conductor::prelude::*;
/// use conductor::{RetryVerdict, Verdict};
///
/// #[derive(Debug, thiserror::Error)]
/// enum PayError {
///     #[error("the card was declined")]
///     Declined,
///     #[error(transparent)]
///     Other(#[from] anyhow::Error),
/// }
///
/// impl RetryVerdict for PayError {
///     fn verdict(&self) -> Verdict {
///         match self {
///             PayError::Declined => Verdict::Permanent,
///             PayError::Other(_) => Verdict::Policy,
///         }
///     }
/// }
/// conductor::retry_verdicts!(PayError);
///
/// #[task]
/// async fn pay(ctx: &TaskContext, cents: u64) -> Result<(), PayError> {
///     if cents > 1000 { Err(PayError::Declined) } else { Ok(()) }
/// }
/// ```
pub trait RetryVerdict: std::error::Error + 'static {
    /// [`Verdict::Policy`] leaves it to the errors that this one wraps.
    fn verdict(&self) -> Verdict;
}

/// How a type says its verdict; made by `conductor::retry_verdicts!`.
#[doc(hidden)]
#[derive(Debug)]
pub struct VerdictOf(pub fn(&(dyn std::error::Error + 'static)) -> Option<Verdict>);

inventory::collect!(VerdictOf);

impl VerdictOf {
    /// Of one type.
    pub const fn of<E: RetryVerdict>() -> Self {
        Self(|error| error.downcast_ref::<E>().map(RetryVerdict::verdict))
    }
}

/// An error that carries a verdict; it reads like the error it wraps.
#[derive(Debug)]
struct Judged {
    verdict: Verdict,
    error: anyhow::Error,
    /// Tells its note that it lives.
    alive: Arc<()>,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Judged {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Most errors that an attempt keeps the texts of, and most bytes of one; what is longer is found by its type alone.
const MAX_NOTES: usize = 32;
const MAX_NOTE_BYTES: usize = 4096;

/// An error that was judged in an attempt: its text, that of its whole chain, and whether it lives.
#[derive(Debug)]
struct Note {
    head: String,
    all: String,
    verdict: Verdict,
    alive: Weak<()>,
}

impl Note {
    /// Whether an error that reads like this wraps it. One that was dropped may have been dealt with, so that a part of a
    /// text says nothing.
    fn is_in(&self, causes: &[String], all: &str) -> bool {
        let ends = |note: &str| {
            let before = all.strip_suffix(note);
            before.is_some_and(|before| before.is_empty() || before.ends_with(": "))
        };
        match self.alive.strong_count() {
            0 => all == self.all || all == self.head,
            _ => causes.contains(&self.head) || ends(&self.all) || ends(&self.head),
        }
    }
}

tokio::task_local! {
    /// The errors that were judged in this attempt, the last one at the end.
    static NOTES: RefCell<Vec<Note>>;
}

/// Awaits an attempt, which keeps what was judged in it.
pub(crate) async fn noting<F: Future>(attempt: F) -> F::Output {
    NOTES.scope(RefCell::default(), attempt).await
}

/// Keeps the verdict of an error, where an attempt is polled.
fn note(head: String, all: String, verdict: Verdict, alive: Weak<()>) {
    if head.is_empty() || all.len() > MAX_NOTE_BYTES {
        return;
    }
    let _ = NOTES.try_with(|notes| {
        let mut notes = notes.borrow_mut();
        if notes.len() >= MAX_NOTES {
            notes.remove(0);
        }
        notes.push(Note {
            head,
            all,
            verdict,
            alive,
        });
    });
}

/// The verdict of the last error that was judged in this attempt and that this one wraps, by its text.
fn noted(error: &anyhow::Error) -> Option<Verdict> {
    if !NOTES.try_with(|notes| !notes.borrow().is_empty()).ok()? {
        return None;
    }
    // Before anything is borrowed: they are the user's code.
    let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
    let all = format!("{error:#}");
    let found = NOTES.try_with(|notes| {
        let notes = notes.borrow();
        let found = notes.iter().rev().find(|note| note.is_in(&causes, &all));
        found.map(|note| note.verdict)
    });
    found.ok().flatten()
}

fn judge(verdict: Verdict, error: anyhow::Error) -> anyhow::Error {
    let alive = Arc::new(());
    note(
        error.to_string(),
        format!("{error:#}"),
        verdict,
        Arc::downgrade(&alive),
    );
    anyhow::Error::new(Judged {
        verdict,
        error,
        alive,
    })
}

pub(crate) fn permanent(error: anyhow::Error) -> anyhow::Error {
    judge(Verdict::Permanent, error)
}

/// Looks through an error's chain, and into the errors that were given a verdict, which stand before what they wrap.
pub(crate) fn find<T>(
    error: &anyhow::Error,
    look: &impl Fn(&(dyn std::error::Error + 'static)) -> Option<T>,
) -> Option<T> {
    error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<Judged>() {
            Some(judged) => find(&judged.error, look),
            None => look(cause),
        })
}

/// The outermost verdict in the error's chain, or that of what it wraps where no chain has it.
pub(crate) fn verdict(error: &anyhow::Error) -> Verdict {
    let found = error.chain().find_map(by_type).or_else(|| noted(error));
    found.unwrap_or(Verdict::Policy)
}

fn by_type(cause: &(dyn std::error::Error + 'static)) -> Option<Verdict> {
    if let Some(judged) = cause.downcast_ref::<Judged>() {
        return Some(judged.verdict);
    }
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.verdict().0);
    }
    if let Some(Error::Table(_)) = cause.downcast_ref() {
        return Some(Verdict::Permanent);
    }
    let said = inventory::iter::<VerdictOf>().find_map(|of| (of.0)(cause));
    said.filter(|said| *said != Verdict::Policy)
}

/// Keeps the verdict of an error that a body gave, as what the handler wraps it in may hide it.
pub(crate) fn heard(error: &anyhow::Error) -> Verdict {
    let verdict = verdict(error);
    if verdict != Verdict::Policy {
        let alive = error.chain().find_map(|cause| {
            let judged = cause.downcast_ref::<Judged>();
            let failure = || Some(cause.downcast_ref::<Failure>()?.verdict().1);
            judged.map_or_else(failure, |judged| Some(Arc::downgrade(&judged.alive)))
        });
        let alive = alive.unwrap_or_default();
        note(error.to_string(), format!("{error:#}"), verdict, alive);
    }
    verdict
}

/// The same of an error of the library's.
pub(crate) fn heard_own(error: &Error) {
    if let Some(verdict) = by_type(error) {
        note(error.to_string(), error.to_string(), verdict, Weak::new());
    }
}

/// Says on a handler's error what the next attempt should be. Both survive `.context(…)`, `#[from]`, `Box`, `Arc`
/// and `#[error(transparent)]`: whatever has the error among its sources, or holds it and shows its text alone or
/// behind a colon, or has its text and nothing else. In a spawned task the text is not kept, and only sources are
/// looked at.
///
/// ```
/// use conductor::prelude::*;
/// use std::time::Duration;
///
/// fn charge(card: &str) -> anyhow::Result<()> {
///     card.parse::<u64>().permanent()?; // a malformed number never gets better
///     ping().retry_after(Duration::from_secs(60))?;
///     Ok(())
/// }
/// # fn ping() -> anyhow::Result<()> { Ok(()) }
/// ```
pub trait RetryExt<T> {
    /// No further attempt: the execution ends as `failed`.
    fn permanent(self) -> anyhow::Result<T>;
    /// The next attempt, if any is left, starts after `delay` instead of the policy's backoff.
    fn retry_after(self, delay: Duration) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> RetryExt<T> for std::result::Result<T, E> {
    fn permanent(self) -> anyhow::Result<T> {
        self.map_err(|error| permanent(error.into()))
    }

    fn retry_after(self, delay: Duration) -> anyhow::Result<T> {
        self.map_err(|error| judge(Verdict::After(delay), error.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::{Context, anyhow};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Own {
        #[error(transparent)]
        Other(#[from] anyhow::Error),
        #[error("the bank says")]
        Bank(#[source] anyhow::Error),
    }

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Outer(#[from] Own);

    fn declined() -> anyhow::Error {
        permanent(anyhow!("declined").context("card 7"))
    }

    /// In an attempt, as what wraps an error is looked at there.
    async fn found(wrapped: impl FnOnce() -> anyhow::Error) -> Verdict {
        noting(async { verdict(&wrapped()) }).await
    }

    #[tokio::test]
    async fn it_survives_whatever_wraps_it() {
        type Way = (&'static str, fn() -> anyhow::Error);
        let ways: [Way; 10] = [
            ("context", || declined().context("order 7")),
            ("transparent", || Own::from(declined()).into()),
            ("transparent twice", || Outer(Own::from(declined())).into()),
            ("transparent in context", || {
                anyhow::Error::from(Own::from(declined())).context("order 7")
            }),
            ("source", || Own::Bank(declined()).into()),
            ("a text of it", || anyhow!("{:#}", declined())),
            ("a box in context", || {
                let boxed: Box<dyn std::error::Error + Send + Sync> = Own::from(declined()).into();
                anyhow!(boxed).context("order 7")
            }),
            ("a box", || {
                let boxed: Box<dyn std::error::Error + Send + Sync> = declined().into();
                anyhow!(boxed)
            }),
            ("an arc", || {
                anyhow::Error::new(Arc::new(Own::from(declined())))
            }),
            ("another report", || anyhow!("{}", declined())),
        ];
        for (way, wrapped) in ways {
            assert_eq!(found(wrapped).await, Verdict::Permanent, "{way}");
        }
        let other = || {
            drop(declined());
            anyhow!("the bank is away")
        };
        assert_eq!(found(other).await, Verdict::Policy);
        // Another bank says the same of itself, behind the first one's refusal, which was dealt with.
        let same = || {
            drop(declined());
            anyhow!("declined")
                .context("card 7")
                .context("the other bank")
        };
        assert_eq!(found(same).await, Verdict::Policy);
    }

    #[tokio::test]
    async fn what_was_judged_elsewhere_is_no_verdict() {
        let text = found(declined).await;
        assert_eq!(text, Verdict::Permanent);
        assert_eq!(found(|| anyhow!("card 7")).await, Verdict::Policy);
    }

    #[test]
    fn a_verdict_survives_context_and_leaves_the_text_alone() {
        let failed: anyhow::Result<()> = Err(anyhow!("no such card").context("charge"));
        let error = failed.permanent().context("order 7").err();
        let text = error.as_ref().map(|e| format!("{e:#}"));
        assert_eq!(text.as_deref(), Some("order 7: charge: no such card"));
        assert_eq!(error.as_ref().map(verdict), Some(Verdict::Permanent));
    }

    #[test]
    fn the_outermost_verdict_counts() {
        let failed: anyhow::Result<()> = Err(anyhow!("busy"));
        let delay = Duration::from_secs(3);
        let error = failed.permanent().retry_after(delay).err();
        assert_eq!(error.as_ref().map(verdict), Some(Verdict::After(delay)));
    }
}
