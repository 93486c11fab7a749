//! An application's error as it is recorded: texts, a code, and details as JSON.
//!
//! The error of a step is a `Failure` in the first run already, because a replay has nothing else. If an execution
//! fails, its failure is stored beside its text, for the parent and for callers that wait for the result.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codec;
use crate::unreadable::{Refusal, read};
use crate::verdict::{Verdict, find, verdict};

/// The longest text of one cause, in bytes, and the most causes that are kept.
const MAX_TEXT_BYTES: usize = 4 * 1024;
const MAX_CAUSES: usize = 16;
/// The longest JSON of details, in bytes.
const MAX_DETAILS_BYTES: usize = 64 * 1024;

/// An error with a code and details, recognizable in the first run and in each replay.
///
/// Return one from the body of a step, the handler of a child or a branch of a race, or return an error type that is
/// listed in [`failures!`](https://docs.rs/conductor/latest/conductor/macro.failures.html).
/// [`TaskContext::failure`](crate::context::TaskContext::failure) retrieves it.
///
/// ```
/// use conductor::prelude::*;
/// use conductor::Failure;
///
/// #[task]
/// async fn pay(ctx: &TaskContext, cents: u64) -> anyhow::Result<String> {
///     let charged = ctx.step("charge", || async move {
///         if cents > 1000 {
///             let refused = Failure::new("declined", "the card was declined");
///             return Err(refused.with_details(&cents));
///         }
///         Ok("charged".to_owned())
///     });
///     match charged.await {
///         Err(error) => match ctx.failure(&error) {
///             Some(failure) if failure.code() == Some("declined") => Ok("ask for another card".to_owned()),
///             _ => Err(error),
///         },
///         charged => charged,
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Failure {
    text: String,
    cause: Option<Arc<Cause>>,
    code: Option<String>,
    details: Option<Box<RawValue>>,
    verdict: Verdict,
    /// The key of the step that returned it.
    key: Option<String>,
    /// The keys of the errors that were recorded inside its body.
    inner: Vec<String>,
    /// Lets a note of its text detect whether it still exists.
    alive: Arc<()>,
}

/// The text of a cause, and the cause of that.
#[derive(Debug)]
struct Cause {
    text: String,
    cause: Option<Arc<Cause>>,
}

/// The form in a step's record.
#[derive(Serialize, Deserialize)]
struct Record {
    error: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    details: Option<Box<RawValue>>,
    /// Its verdict on the next attempt, if it is not left to the policy.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    permanent: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    after_ms: Option<u64>,
    /// The keys of the errors that were recorded inside the body.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    inner: Vec<String>,
}

/// The form in which it is stored beside the text of an execution's error.
#[derive(Serialize, Deserialize, Default)]
struct End {
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    details: Option<Box<RawValue>>,
}

impl Failure {
    /// Creates an error with a code for programs and a text for people.
    pub fn new(code: impl Into<String>, text: impl fmt::Display) -> Self {
        let code: String = code.into();
        Self::of_texts(vec![kept(text.to_string())], Some(kept(code)), None)
    }

    /// Adds details, as JSON of at most 64 KiB.
    ///
    /// If they cannot be stored or are larger, they are left out, and a cause tells why.
    pub fn with_details(mut self, details: &(impl Serialize + ?Sized)) -> Self {
        match stored(details) {
            Ok(details) => self.details = Some(details),
            Err(reason) => {
                let text = kept(format!("its details were left out: {reason}"));
                let cause = self.cause.take();
                self.cause = Some(Arc::new(Cause { text, cause }));
            }
        }
        self
    }

    /// Returns the code. For a type listed in `failures!`, it is the type's name.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Returns the details as this type, or `None` if there are none or they do not fit.
    ///
    /// For a type listed in `failures!`, the details are the value itself.
    pub fn details<D: DeserializeOwned>(&self) -> Option<D> {
        read(self.details.as_ref()?.get()).ok()
    }

    /// Returns what to record for an error that a body returned.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let texts = error.chain().take(MAX_CAUSES);
        let texts = texts.map(|cause| kept(cause.to_string())).collect();
        let (code, details) = find(error, &in_cause).unwrap_or_default();
        Self {
            verdict: verdict(error),
            ..Self::of_texts(texts, code, details)
        }
    }

    fn of_texts(texts: Vec<String>, code: Option<String>, details: Option<Box<RawValue>>) -> Self {
        let mut texts = texts.into_iter();
        let text = texts.next().unwrap_or_default();
        let cause = (texts.rev()).fold(None, |cause, text| Some(Arc::new(Cause { text, cause })));
        Self {
            text,
            cause,
            code,
            details,
            verdict: Verdict::Policy,
            key: None,
            inner: Vec::new(),
            alive: Arc::default(),
        }
    }

    /// Sets the key of the step that returns it, and the keys of the errors inside its body.
    pub(crate) fn of_step(mut self, key: &str, inner: Vec<String>) -> Self {
        self.key = Some(key.to_owned());
        self.inner.extend(inner);
        self
    }

    /// Returns the key of the step whose error is in this chain.
    pub(crate) fn key_in(error: &anyhow::Error) -> Option<String> {
        find(error, &|cause| cause.downcast_ref::<Self>()?.key.clone())
    }

    /// Returns the keys of the errors inside the body of that step.
    pub(crate) fn inner_in(error: &anyhow::Error) -> Vec<String> {
        let inner = |cause: &(dyn std::error::Error + 'static)| {
            Some(cause.downcast_ref::<Self>()?.inner.clone())
        };
        find(error, &inner).unwrap_or_default()
    }

    /// Returns a reference that tells whether the failure in this chain still exists.
    pub(crate) fn alive_in(error: &anyhow::Error) -> Weak<()> {
        let alive = |cause: &(dyn std::error::Error + 'static)| {
            let failure = cause.downcast_ref::<Self>()?;
            Some(Arc::downgrade(&failure.alive))
        };
        find(error, &alive).unwrap_or_default()
    }

    fn texts(&self) -> Vec<&str> {
        let causes = std::iter::successors(self.cause.as_deref(), |cause| cause.cause.as_deref());
        let causes = causes.map(|cause| cause.text.as_str());
        std::iter::once(self.text.as_str()).chain(causes).collect()
    }

    /// Returns its verdict on the next attempt, and a reference that tells whether it still exists.
    pub(crate) fn verdict(&self) -> (Verdict, Weak<()>) {
        (self.verdict, Arc::downgrade(&self.alive))
    }

    /// Returns the form in which a step records it.
    pub(crate) fn to_record(&self) -> String {
        let record = Record {
            error: self.texts().into_iter().map(str::to_owned).collect(),
            code: self.code.clone(),
            details: self.details.clone(),
            permanent: self.verdict == Verdict::Permanent,
            after_ms: match self.verdict {
                Verdict::After(delay) => u64::try_from(delay.as_millis()).ok(),
                Verdict::Policy | Verdict::Permanent => None,
            },
            inner: self.inner.clone(),
        };
        // Texts and JSON can always be serialized.
        serde_json::to_string(&record).unwrap_or_else(|_| r#"{"error":[]}"#.to_owned())
    }

    /// Parses what [`to_record`](Self::to_record) wrote.
    pub(crate) fn from_record(json: &str) -> Result<Self, Refusal> {
        let record: Record = read(json)?;
        let verdict = match record.after_ms {
            _ if record.permanent => Verdict::Permanent,
            Some(ms) => Verdict::After(Duration::from_millis(ms)),
            None => Verdict::Policy,
        };
        Ok(Self {
            verdict,
            inner: record.inner,
            ..Self::of_texts(record.error, record.code, record.details)
        })
    }

    /// Returns what to store beside the text of an execution's error; `None` if the text is all.
    pub(crate) fn to_end(&self) -> Option<String> {
        let end = End {
            code: Some(self.code.clone()?),
            details: self.details.clone(),
        };
        serde_json::to_string(&end).ok()
    }

    /// Returns the failure of an execution, from its text and what [`to_end`](Self::to_end) stored.
    pub(crate) fn from_end(text: &str, end: Option<&str>) -> Self {
        let end = end.and_then(|end| serde_json::from_str(end).ok());
        let End { code, details } = end.unwrap_or_default();
        Self::of_texts(vec![text.to_owned()], code, details)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

type Matched = (Option<String>, Option<Box<RawValue>>);

/// Returns the code and the details of one error of a chain.
fn in_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Matched> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some((failure.code.clone(), failure.details.clone()));
    }
    inventory::iter::<FailureOf>().find_map(|of| (of.0)(cause))
}

/// Extracts the code and details of a type; created by `conductor::failures!`.
#[doc(hidden)]
#[derive(Debug)]
pub struct FailureOf(pub fn(&(dyn std::error::Error + 'static)) -> Option<Matched>);

inventory::collect!(FailureOf);

impl FailureOf {
    /// Returns the extractor for one type.
    pub const fn of<E: std::error::Error + Serialize + DeserializeOwned + 'static>() -> Self {
        Self(|cause| {
            let error = cause.downcast_ref::<E>()?;
            Some((Some(name_of::<E>()), stored(error).ok()))
        })
    }
}

/// Returns the type's name without its path.
fn name_of<E>() -> String {
    let name = std::any::type_name::<E>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name).to_owned()
}

fn stored(details: &(impl Serialize + ?Sized)) -> Result<Box<RawValue>, String> {
    let json = codec::encode(details)?;
    if json.len() > MAX_DETAILS_BYTES {
        let bytes = json.len();
        return Err(format!(
            "they have {bytes} bytes of JSON, and {MAX_DETAILS_BYTES} are the most"
        ));
    }
    RawValue::from_string(json).map_err(|error| error.to_string())
}

/// Returns a text that Postgres can store, of limited length.
fn kept(mut text: String) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push_str(" … (cut)");
    }
    text
}
