use std::marker::PhantomData;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use uuid::Uuid;

use crate::codec;
use crate::error::{Error, Result, too_long};
use crate::task::{PointInTime, Task};

/// The longest dedupe key in bytes, because it is part of an index entry.
const LONGEST_KEY: usize = 200;

/// An execution to be created.
#[derive(Debug, Clone)]
pub(super) struct NewExecution {
    pub(super) id: Uuid,
    pub(super) task: String,
    pub(super) payload: String,
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) delay_ms: Option<i64>,
    pub(super) priority: Option<i32>,
    pub(super) dedupe_key: Option<String>,
    pub(super) throttle_ms: Option<i64>,
    pub(super) debounce_ms: Option<i64>,
    pub(super) max_wait_ms: Option<i64>,
}

impl NewExecution {
    pub(super) fn of<T: Task>(payload: &T::Payload) -> Result<Self> {
        Ok(Self::encoded(T::NAME, codec::encode_payload::<T>(payload)?))
    }

    pub(super) fn encoded(task: &str, payload: String) -> Self {
        Self {
            id: Uuid::now_v7(),
            task: task.to_owned(),
            payload,
            run_at: None,
            delay_ms: None,
            priority: None,
            dedupe_key: None,
            throttle_ms: None,
            debounce_ms: None,
            max_wait_ms: None,
        }
    }

    /// Returns approximately how many bytes it adds to a message.
    pub(super) fn bytes(&self) -> usize {
        let key = self.dedupe_key.as_ref().map_or(0, String::len);
        self.payload.len() + self.task.len() + key + 64
    }

    /// Returns whether it may match an existing execution.
    pub(super) fn is_keyed(&self) -> bool {
        self.dedupe_key.is_some() || self.throttle_ms.is_some() || self.debounce_ms.is_some()
    }

    /// Checks what depends on several options, once all of them are set.
    pub(super) fn complete(self) -> Result<Self> {
        let span = |millis: i64| {
            let millis = u64::try_from(millis).unwrap_or_default();
            humantime::format_duration(Duration::from_millis(millis))
        };
        match (self.max_wait_ms, self.debounce_ms) {
            (Some(_), None) => Err(Error::Invalid(
                "max_wait bounds a debounce; give one with it".to_owned(),
            )),
            (Some(most), Some(quiet)) if most < quiet => Err(Error::Invalid(format!(
                "a max_wait of {} is shorter than the debounce of {}",
                span(most),
                span(quiet)
            ))),
            _ => Ok(self),
        }
    }

    pub(super) fn set_run_at(&mut self, at: DateTime<Utc>) -> Result<()> {
        if !(1..=9999).contains(&at.year()) {
            return Err(Error::Invalid(format!(
                "run_at {at} lies outside the years 1 to 9999"
            )));
        }
        self.run_at = Some(at);
        self.consistent()
    }

    pub(super) fn set_delay(&mut self, delay: Duration) -> Result<()> {
        self.delay_ms = Some(millis(delay)?);
        self.consistent()
    }

    pub(super) fn set_priority(&mut self, priority: i32) -> Result<()> {
        self.priority = Some(priority);
        Ok(())
    }

    pub(super) fn set_dedupe_key(&mut self, key: String) -> Result<()> {
        if key.is_empty() || key.len() > LONGEST_KEY {
            return Err(Error::Invalid(format!(
                "a dedupe key has 1 to {LONGEST_KEY} bytes, and this one has {}",
                key.len()
            )));
        }
        if let Some(at) = key.find('\0') {
            return Err(Error::Invalid(format!(
                "the dedupe key {key:?} has the character U+0000 (byte {at}), which Postgres cannot store"
            )));
        }
        self.dedupe_key = Some(key);
        Ok(())
    }

    pub(super) fn set_throttle(&mut self, slot: Duration) -> Result<()> {
        self.throttle_ms = Some(interval("throttle", slot)?);
        self.consistent()
    }

    pub(super) fn set_debounce(&mut self, quiet: Duration) -> Result<()> {
        self.debounce_ms = Some(interval("debounce", quiet)?);
        self.consistent()
    }

    pub(super) fn set_max_wait(&mut self, most: Duration) -> Result<()> {
        self.max_wait_ms = Some(interval("max_wait", most)?);
        Ok(())
    }

    fn consistent(&self) -> Result<()> {
        let reason = if self.debounce_ms.is_none() {
            return Ok(());
        } else if self.throttle_ms.is_some() {
            "throttle lets the first call through and debounce the last one; give one of them"
        } else if self.run_at.is_some() || self.delay_ms.is_some() {
            "debounce says when the execution is due; give no run_at or delay with it"
        } else {
            return Ok(());
        };
        Err(Error::Invalid(reason.to_owned()))
    }
}

fn interval(option: &str, duration: Duration) -> Result<i64> {
    match millis(duration)? {
        0 => Err(Error::Invalid(format!(
            "a {option} of {} is shorter than a millisecond",
            humantime::format_duration(duration)
        ))),
        millis => Ok(millis),
    }
}

fn millis(duration: Duration) -> Result<i64> {
    match too_long(duration) {
        Some(error) => Err(error),
        None => Ok(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
    }
}

/// One item of a batch, with its own options.
///
/// See [`Conductor::invoke_batch_with`](super::Conductor::invoke_batch_with).
#[must_use = "an invocation does nothing by itself"]
pub struct Invocation<T: Task> {
    pub(super) new: Result<NewExecution>,
    task: PhantomData<fn() -> T>,
}

impl<T: Task> Invocation<T> {
    /// Creates an item with the task's own options.
    ///
    /// If the payload cannot be stored, the batch returns the error.
    pub fn new(payload: T::Payload) -> Self {
        Self {
            new: NewExecution::of::<T>(&payload),
            task: PhantomData,
        }
    }

    /// Sets the earliest start; see [`Invoke::run_at`](super::Invoke::run_at).
    pub fn run_at(self, at: impl PointInTime) -> Self {
        let at = at.utc();
        self.set(|new| new.set_run_at(at))
    }

    /// Sets the time to wait first; see [`Invoke::delay`](super::Invoke::delay).
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|new| new.set_delay(delay))
    }

    /// Overrides the task's priority; see [`Invoke::priority`](super::Invoke::priority).
    pub fn priority(self, priority: i32) -> Self {
        self.set(|new| new.set_priority(priority))
    }

    /// Allows one execution per key at a time; see
    /// [`Invoke::dedupe_key`](super::Invoke::dedupe_key).
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.set(|new| new.set_dedupe_key(key))
    }

    /// Creates at most one execution per slot; see [`Invoke::throttle`](super::Invoke::throttle).
    pub fn throttle(self, slot: Duration) -> Self {
        self.set(|new| new.set_throttle(slot))
    }

    /// Runs once the calls are quiet; see [`Invoke::debounce`](super::Invoke::debounce).
    pub fn debounce(self, quiet: Duration) -> Self {
        self.set(|new| new.set_debounce(quiet))
    }

    /// Bounds a debounce; see [`Invoke::max_wait`](super::Invoke::max_wait).
    pub fn max_wait(self, most: Duration) -> Self {
        self.set(|new| new.set_max_wait(most))
    }

    pub(super) fn set(mut self, change: impl FnOnce(&mut NewExecution) -> Result<()>) -> Self {
        if let Ok(new) = &mut self.new
            && let Err(error) = change(new)
        {
            self.new = Err(error);
        }
        self
    }
}
