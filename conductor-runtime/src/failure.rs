//! An application's error as it is recorded and travels: texts, a code, and details as JSON.
//!
//! A step's error is a `Failure` in the first run already, as a replay has nothing else. What ends an execution has
//! its failure stored beside its text, for the parent and for callers that wait for the result.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codec;
use crate::context::Memo;
use crate::error::Error;
use crate::unreadable::{Refusal, read};
use crate::verdict::{Verdict, find, verdict};

/// Longest text of one cause, in bytes, and most causes that are kept.
const MAX_TEXT_BYTES: usize = 4 * 1024;
const MAX_CAUSES: usize = 16;
/// Longest JSON of details, in bytes.
const MAX_DETAILS_BYTES: usize = 64 * 1024;

/// An error with a code and details, which a handler can tell from others in the first run and in each replay.
///
/// The body of a step, the handler of a child, or a branch of a race returns one, or any error type that is named in
/// [`failures!`](https://docs.rs/conductor/latest/conductor/macro.failures.html).
/// [`TaskContext::failure`](crate::context::TaskContext::failure) gives it back.
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
    /// Of the step that gave it.
    key: Option<String>,
    /// The keys of the errors that were recorded inside of its body.
    inner: Vec<String>,
    /// Tells a note of its text that it lives.
    alive: Arc<()>,
}

/// The text of a cause, and what caused it.
#[derive(Debug)]
struct Cause {
    text: String,
    cause: Option<Arc<Cause>>,
}

/// As a step's record has it.
#[derive(Serialize, Deserialize)]
struct Record {
    error: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    details: Option<Box<RawValue>>,
    /// What it says of the next attempt, where that is not the policy's to say.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    permanent: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    after_ms: Option<u64>,
    /// The keys of the errors that were recorded inside of the body.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    inner: Vec<String>,
}

/// As it is stored beside the text of an execution's error.
#[derive(Serialize, Deserialize, Default)]
struct End {
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    details: Option<Box<RawValue>>,
}

impl Failure {
    /// An error with a code, which programs match, and a text for people.
    pub fn new(code: impl Into<String>, text: impl fmt::Display) -> Self {
        let code: String = code.into();
        Self::of_texts(vec![kept(text.to_string())], Some(kept(code)), None)
    }

    /// Adds details. What cannot be stored as JSON, or has more than 64 KiB of it, is left out, and a cause says so.
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

    /// The code. That of a type named in `failures!` is the type's name.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The details, read as this type; none where there are none, or they are not of this type. Of a type named in
    /// `failures!` the details are the value itself.
    pub fn details<D: DeserializeOwned>(&self) -> Option<D> {
        read(self.details.as_ref()?.get()).ok()
    }

    /// What is to be recorded of an error that a body gave.
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

    /// One that a step gives, under this key, with those of the errors inside of its body.
    pub(crate) fn of_step(mut self, key: &str, inner: Vec<String>) -> Self {
        self.key = Some(key.to_owned());
        self.inner.extend(inner);
        self
    }

    /// The key of the step that gave what an error's chain contains.
    pub(crate) fn key_in(error: &anyhow::Error) -> Option<String> {
        find(error, &|cause| cause.downcast_ref::<Self>()?.key.clone())
    }

    /// The keys of the errors inside of the body of that step.
    pub(crate) fn inner_in(error: &anyhow::Error) -> Vec<String> {
        let inner = |cause: &(dyn std::error::Error + 'static)| {
            Some(cause.downcast_ref::<Self>()?.inner.clone())
        };
        find(error, &inner).unwrap_or_default()
    }

    /// Tells whether what an error's chain contains lives.
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

    /// What it says of the next attempt, and whether it lives.
    pub(crate) fn verdict(&self) -> (Verdict, Weak<()>) {
        (self.verdict, Arc::downgrade(&self.alive))
    }

    /// As it is recorded for a step.
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
        // Texts and JSON always can be written.
        serde_json::to_string(&record).unwrap_or_else(|_| r#"{"error":[]}"#.to_owned())
    }

    /// As [`to_record`](Self::to_record) wrote it.
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

    /// What is stored beside the text of an execution's error; none where the text is all.
    pub(crate) fn to_end(&self) -> Option<String> {
        let end = End {
            code: Some(self.code.clone()?),
            details: self.details.clone(),
        };
        serde_json::to_string(&end).ok()
    }

    /// Of an execution that has failed, by its text and what [`to_end`](Self::to_end) has stored.
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

/// An error in which a failure may be found: that of a step, a transaction or a race, or that of a child.
pub trait MayFail: sealed::Sealed {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn failure_in(&self, memo: &Memo) -> Option<Failure>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for anyhow::Error {}
    impl Sealed for crate::error::Error {}
}

impl MayFail for anyhow::Error {
    #[allow(private_interfaces)]
    fn failure_in(&self, memo: &Memo) -> Option<Failure> {
        find(self, &|cause| match cause.downcast_ref::<Error>() {
            Some(error) => error.failure_in(memo),
            None => cause.downcast_ref::<Failure>().cloned(),
        })
    }
}

impl MayFail for Error {
    #[allow(private_interfaces)]
    fn failure_in(&self, memo: &Memo) -> Option<Failure> {
        match self {
            Self::Failed { id, .. } => memo.child(*id),
            _ => None,
        }
    }
}

type Matched = (Option<String>, Option<Box<RawValue>>);

/// The code and the details that one error of a chain has.
fn in_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Matched> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some((failure.code.clone(), failure.details.clone()));
    }
    inventory::iter::<FailureOf>().find_map(|of| (of.0)(cause))
}

/// How a type says its code and its details; made by `conductor::failures!`.
#[doc(hidden)]
#[derive(Debug)]
pub struct FailureOf(pub fn(&(dyn std::error::Error + 'static)) -> Option<Matched>);

inventory::collect!(FailureOf);

impl FailureOf {
    /// Of one type.
    pub const fn of<E: std::error::Error + Serialize + DeserializeOwned + 'static>() -> Self {
        Self(|cause| {
            let error = cause.downcast_ref::<E>()?;
            Some((Some(name_of::<E>()), stored(error).ok()))
        })
    }
}

/// Without its path, which is not for others to know.
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

/// A text that Postgres takes, and of bounded length.
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
