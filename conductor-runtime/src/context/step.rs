use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use conductor_postgres::Timed;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TaskContext;
use super::body::{RetryBody, StepBody};
use super::memo::{Met, Recorded};
use super::value::StepValue;
use crate::codec;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::task::{HandlerError, RetryPolicy};
use crate::unreadable::{Unreadable, read};
use crate::verdict::{Verdict, heard, permanent};

const KIND: &str = "step";
/// The record's kind for a step that failed.
const FAILED: &str = "failed step";

/// A builder for a step, and its future. Does nothing until awaited.
///
/// The future is boxed here, not named in the signature of `step`: the compiler would report an unfit body at every
/// place that mentions the type of its future.
#[must_use = "a step does nothing until it is awaited"]
pub struct Step<'c, T> {
    timeout: Arc<OnceLock<Duration>>,
    future: Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'c>>,
}

impl<T> Step<'_, T> {
    /// Limits the time of the body, for each try separately.
    ///
    /// Writing the record is not counted. Default: no limit besides the task's timeout.
    pub fn timeout(self, timeout: Duration) -> Self {
        // If called twice, the first value is used.
        self.timeout.get_or_init(|| timeout);
        self
    }
}

impl<T> Future for Step<'_, T> {
    type Output = anyhow::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for Step<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("timeout", &self.timeout.get())
            .finish_non_exhaustive()
    }
}

impl TaskContext {
    /// Runs the body once and records its value before returning it.
    ///
    /// A replay returns the recorded value.
    ///
    /// A step whose record is committed never runs again. If the process crashes between the body's effect and its
    /// record, the body runs again: use [`idempotency_key`](Self::idempotency_key), or
    /// [`transaction`](Self::transaction) for effects in this database.
    ///
    /// An error of the body goes to the handler, and is recorded only if the handler continues after it; see
    /// [`failure`](Self::failure). The body may borrow, and steps may run concurrently in `join!`.
    ///
    /// Blocking code, such as a synchronous driver or a long computation, holds a thread of the runtime, and no
    /// timeout can interrupt it: await `tokio::task::spawn_blocking` in the body. A body that blocks beyond its
    /// timeout has timed out when it returns, unless it returns an error of its own.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use std::time::Duration;
    /// #[task]
    /// async fn weigh(ctx: &TaskContext, item: String) -> anyhow::Result<u64> {
    ///     let (grams, price) = tokio::try_join!(
    ///         ctx.step("weigh", || async { scales(&item).await }),
    ///         ctx.step("price", || async { anyhow::Ok(3) }).timeout(Duration::from_secs(5)),
    ///     )?;
    ///     Ok(grams * price)
    /// }
    /// # async fn scales(_: &str) -> anyhow::Result<u64> { Ok(1) }
    /// ```
    pub fn step<'c, T, E, F, Fut>(&'c self, key: impl Into<String>, body: F) -> Step<'c, T>
    where
        F: StepBody<Fut> + 'c,
        Fut: Future<Output = Result<T, E>> + Send + 'c,
        T: StepValue + 'c,
        E: HandlerError + Send + 'c,
    {
        let mut once = Some(body);
        self.say(key.into(), None, move || once.take().map(|body| body()))
    }

    /// Runs a [`step`](Self::step) and retries its body in place if it fails.
    ///
    /// The handler waits during the delays and keeps its slot. The last error goes to the handler. If tries should be
    /// minutes apart, let the attempt fail instead: the task's retry policy holds no slot.
    ///
    /// An error marked `.permanent()` is not retried, and `.retry_after(d)` sets the delay. The number of tries is
    /// not recorded, so a crash restarts the count. A cancel or a shutdown ends the delay early.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use std::time::Duration;
    /// #[task]
    /// async fn price(ctx: &TaskContext, item: String) -> anyhow::Result<u64> {
    ///     let often = RetryPolicy::attempts(5)
    ///         .backoff(Duration::from_millis(200), Duration::from_secs(5));
    ///     ctx.retry_step("ask", often, || async { ask(&item).await })
    ///         .timeout(Duration::from_secs(10))
    ///         .await
    /// }
    /// # async fn ask(_: &str) -> anyhow::Result<u64> { Ok(1) }
    /// ```
    pub fn retry_step<'c, T, E, F, Fut>(
        &'c self,
        key: impl Into<String>,
        policy: RetryPolicy,
        mut body: F,
    ) -> Step<'c, T>
    where
        F: RetryBody<Fut> + 'c,
        Fut: Future<Output = Result<T, E>> + Send + 'c,
        T: StepValue + 'c,
        E: HandlerError + Send + 'c,
    {
        self.say(key.into(), Some(policy), move || Some(body()))
    }

    fn say<'c, T, E, F, Fut>(
        &'c self,
        key: String,
        retry: Option<RetryPolicy>,
        body: F,
    ) -> Step<'c, T>
    where
        F: FnMut() -> Option<Fut> + Send + 'c,
        Fut: Future<Output = Result<T, E>> + Send + 'c,
        T: StepValue + 'c,
        E: HandlerError + Send + 'c,
    {
        let met = self.memo.meet(&key, KIND);
        let timeout = Arc::new(OnceLock::new());
        Step {
            future: Box::pin(run(self, key, met, retry, body, Arc::clone(&timeout))),
            timeout,
        }
    }
}

/// Runs the body until it succeeds, or until the policy allows no further try.
async fn run<T, E, F, Fut>(
    ctx: &TaskContext,
    key: String,
    met: Met,
    retry: Option<RetryPolicy>,
    mut body: F,
    timeout: Arc<OnceLock<Duration>>,
) -> anyhow::Result<T>
where
    F: FnMut() -> Option<Fut> + Send,
    Fut: Future<Output = Result<T, E>> + Send,
    T: StepValue,
    E: HandlerError + Send,
{
    if let Some(recorded) = met? {
        return ctx.replayed(&key, KIND, &recorded).await;
    }
    let mut failures = 0;
    loop {
        ctx.go_on().await?;
        let _busy = ctx.memo.busy();
        let Some(body) = body() else {
            anyhow::bail!("step {key:?} cannot begin twice");
        };
        let number = ctx.memo.next_body();
        let body = ctx.memo.inside(KIND, number, body);
        let error = match limited(ctx, &key, timeout.get().copied(), body).await {
            Ok(value) => {
                let (json, value) = encoded(ctx, &key, &value)?;
                ctx.record(&key, KIND, json).await?;
                return Ok(value);
            }
            Err(error) => error,
        };
        let verdict = heard(&error);
        failures += 1;
        let Some(delay) = retry.and_then(|retry| delay(&retry, failures, verdict)) else {
            return Err(ctx.failed(&key, FAILED, number, error));
        };
        tracing::debug!(step = key, execution = %ctx.execution_id, error = %format!("{error:#}"),
            ?delay, "a step is tried again");
        ctx.pause(delay).await;
    }
}

async fn limited<T, E>(
    ctx: &TaskContext,
    key: &str,
    timeout: Option<Duration>,
    body: impl Future<Output = Result<T, E>> + Send,
) -> anyhow::Result<T>
where
    E: HandlerError,
{
    let Some(timeout) = timeout else {
        return body.await.map_err(Into::into);
    };
    match ctx.deadline(timeout).bound(body).await {
        Timed::InTime(result) => result.map_err(Into::into),
        // The body's own error tells more, for example that it is permanent.
        Timed::Late(Err(error)) => Err(error.into()),
        Timed::Late(Ok(_)) | Timed::Over => Err(anyhow::anyhow!(
            "step {key:?} timed out after {}",
            humantime::format_duration(timeout)
        )),
    }
}

fn delay(retry: &RetryPolicy, failures: u32, verdict: Verdict) -> Option<Duration> {
    if failures >= retry.max_attempts {
        return None;
    }
    match verdict {
        Verdict::Permanent => None,
        Verdict::After(delay) => Some(delay),
        Verdict::Policy => Some(retry.delay(failures)),
    }
}

/// Returns the value as JSON, counted against the execution's limit of records, and as a replay will read it from the
/// record.
pub(super) fn encoded<T: Serialize + DeserializeOwned>(
    ctx: &TaskContext,
    key: &str,
    value: &T,
) -> anyhow::Result<(String, T)> {
    let encoded = codec::encode_readable(value).map_err(|reason| Error::Step {
        key: key.to_owned(),
        reason,
    });
    let counted = encoded.and_then(|(json, value)| {
        // Approximately what it adds to the answer of a claim.
        ctx.memo.count(key, key.len() + json.len() + 32)?;
        Ok((json, value))
    });
    counted.map_err(|error| permanent(error.into()))
}

impl TaskContext {
    /// Returns what was recorded under a key, a value or an error. Never returns if this build cannot read it.
    pub(super) async fn replayed<T: DeserializeOwned>(
        &self,
        key: &str,
        kind: &str,
        recorded: &Recorded,
    ) -> anyhow::Result<T> {
        self.memo.give(key);
        let json = recorded.get();
        let given = match recorded.failed {
            true => Failure::from_record(json).map(|failure| {
                let error = failure.of_step(key, Vec::new()).into();
                heard(&error);
                self.memo.fail_again(key, &error);
                Err(error)
            }),
            false => read(json).map(Ok),
        };
        let error = match given {
            Ok(given) => return given,
            Err(error) => error,
        };
        let what = format!("what its {kind} {key:?} has recorded");
        self.leave(Unreadable::new(what, error)).await
    }
}
