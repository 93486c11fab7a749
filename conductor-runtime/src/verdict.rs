//! Whether and when a failed attempt is retried, according to its error, however that is wrapped.
//!
//! An error with a verdict is found in the chain of sources by its type. `#[error(transparent)]` hides it: such a
//! variant shows the error's text and passes on the error's source, so the error itself is in no chain. Therefore an
//! attempt also keeps the texts of its errors with verdicts, and an error that contains such a text has the same
//! verdict, while the original error exists.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::Error;
use crate::failure::Failure;

/// An error's decision on the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The task's retry policy decides.
    Policy,
    /// No further attempt; the execution ends as `failed`.
    Permanent,
    /// The next attempt starts after this delay, if attempts are left.
    After(Duration),
}

/// An error type that decides on the next attempt.
///
/// Register the type once with `conductor::retry_verdicts!`, so that its values are found in any error that wraps
/// them.
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
    /// Returns the verdict. [`Verdict::Policy`] leaves it to the errors that this one wraps.
    fn verdict(&self) -> Verdict;
}

/// Extracts the verdict of a type; created by `conductor::retry_verdicts!`.
#[doc(hidden)]
#[derive(Debug)]
pub struct VerdictOf(pub fn(&(dyn std::error::Error + 'static)) -> Option<Verdict>);

inventory::collect!(VerdictOf);

impl VerdictOf {
    /// Returns the extractor for one type.
    pub const fn of<E: RetryVerdict>() -> Self {
        Self(|error| error.downcast_ref::<E>().map(RetryVerdict::verdict))
    }
}

/// An error with a verdict; it displays as the error that it wraps.
#[derive(Debug)]
struct Judged {
    verdict: Verdict,
    error: anyhow::Error,
    /// Lets its note detect whether it still exists.
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

/// The most errors whose texts an attempt keeps, and the longest text in bytes. A longer one is found by its type
/// only.
const MAX_NOTES: usize = 32;
const MAX_NOTE_BYTES: usize = 4096;

/// An error with a verdict: its text, the text of its whole chain, and whether it still exists.
#[derive(Debug)]
struct Note {
    head: String,
    all: String,
    verdict: Verdict,
    alive: Weak<()>,
}

impl Note {
    /// Returns whether an error with these texts wraps it. An error that was dropped may have been handled, so then
    /// only the whole text counts.
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
    /// The errors with verdicts in this attempt, the latest last.
    static NOTES: RefCell<Vec<Note>>;
}

/// Runs an attempt that keeps the verdicts of its errors.
pub(crate) async fn noting<F: Future>(attempt: F) -> F::Output {
    NOTES.scope(RefCell::default(), attempt).await
}

/// Keeps the verdict of an error, if this runs within an attempt.
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

/// Returns the verdict of the latest error of this attempt that this one wraps, according to its text.
fn noted(error: &anyhow::Error) -> Option<Verdict> {
    if !NOTES.try_with(|notes| !notes.borrow().is_empty()).ok()? {
        return None;
    }
    // Formatted before the borrow, because `Display` is the application's code.
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

/// Searches an error's chain, and inside the errors with verdicts, which stand before what they wrap.
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

/// Returns the outermost verdict in the error's chain, or else the one that its text indicates.
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

/// Keeps the verdict of an error that a body returned, because the handler's wrapper may hide it.
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

/// Does the same for an error of the library.
pub(crate) fn heard_own(error: &Error) {
    if let Some(verdict) = by_type(error) {
        note(error.to_string(), error.to_string(), verdict, Weak::new());
    }
}

/// Sets the verdict of a handler's error on the next attempt.
///
/// The verdict survives `.context(…)`, `#[from]`, `Box`, `Arc` and `#[error(transparent)]`. It applies to any error
/// that has the original among its sources, or that holds it and displays its text alone or after a colon, or that
/// has exactly its text. In a spawned task texts are not kept, so only sources count.
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
    /// Allows no further attempt: the execution ends as `failed`.
    fn permanent(self) -> anyhow::Result<T>;
    /// Starts the next attempt, if any is left, after `delay` instead of the policy's backoff.
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

    /// Runs within an attempt, because texts are kept only there.
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
        // Another bank's error has the same text, after the first one was handled.
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
