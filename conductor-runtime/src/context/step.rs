use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TaskContext;
use super::memo::{Met, Recorded};
use crate::codec;
use crate::db::Timed;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::task::RetryPolicy;
use crate::unreadable::{Unreadable, read};
use crate::verdict::{Verdict, heard, permanent};

const KIND: &str = "step";
/// The kind of a step whose error is recorded.
const FAILED: &str = "failed step";

/// A step that is being said; `.await` runs it, or gives what was recorded.
///
/// It names the future and not what that borrows: a bound on lifetimes here would keep handlers
/// with `join!` from being `Send`.
#[must_use = "a step does nothing until it is awaited"]
pub struct Step<Fut> {
    timeout: Arc<OnceLock<Duration>>,
    future: Pin<Box<Fut>>,
}

impl<Fut> Step<Fut> {
    /// How long the body may take, each try for itself; its record is not counted. No limit but
    /// the task's by default.
    pub fn timeout(self, timeout: Duration) -> Self {
        // The first one counts, should it be said twice.
        self.timeout.get_or_init(|| timeout);
        self
    }
}

impl<Fut: Future> Future for Step<Fut> {
    type Output = Fut::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<Fut> fmt::Debug for Step<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("timeout", &self.timeout.get())
            .finish_non_exhaustive()
    }
}

impl TaskContext {
    /// A step: the body runs once, and what it gave is recorded before the next line runs. A
    /// replay gives the recorded value.
    ///
    /// A body that fails is not recorded; the error goes to the handler. The body may borrow, and
    /// steps may run side by side in `join!`. A crash between the body's effect and its record
    /// runs the body again: use [`idempotency_key`](Self::idempotency_key), or
    /// [`transaction`](Self::transaction) for effects in this database.
    ///
    /// Code that blocks (a synchronous driver, a large computation) holds a thread of the runtime, and no
    /// timeout can end it: await `tokio::task::spawn_blocking` in the body. A body that itself blocks past its
    /// timeout has timed out, unless it gives an error of its own.
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
    pub fn step<T, E, F, Fut>(
        &self,
        key: impl Into<String>,
        body: F,
    ) -> Step<impl Future<Output = anyhow::Result<T>> + Send>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<anyhow::Error> + Send,
    {
        let mut once = Some(body);
        self.say(key.into(), None, move || once.take().map(|body| body()))
    }

    /// A [`step`](Self::step) whose body is tried again when it fails, here and now: the handler
    /// waits for it in its place and keeps its slot. The last error goes to the handler. For tries
    /// that are minutes apart, let the attempt fail instead: the task's own policy costs no slot.
    ///
    /// What is `.permanent()` is not tried again, and `.retry_after(d)` sets the delay. The count is
    /// not recorded: a crash begins it anew. A cancel or a shutdown does not wait for the next try.
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
    pub fn retry_step<T, E, F, Fut>(
        &self,
        key: impl Into<String>,
        policy: RetryPolicy,
        mut body: F,
    ) -> Step<impl Future<Output = anyhow::Result<T>> + Send>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<anyhow::Error> + Send,
    {
        self.say(key.into(), Some(policy), move || Some(body()))
    }

    fn say<T, E, F, Fut>(
        &self,
        key: String,
        retry: Option<RetryPolicy>,
        body: F,
    ) -> Step<impl Future<Output = anyhow::Result<T>> + Send>
    where
        F: FnMut() -> Option<Fut> + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<anyhow::Error> + Send,
    {
        let met = self.memo.meet(&key, KIND);
        let timeout = Arc::new(OnceLock::new());
        Step {
            future: Box::pin(run(self, key, met, retry, body, Arc::clone(&timeout))),
            timeout,
        }
    }
}

/// Runs the body until it succeeds, or gives no further try.
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
    T: Serialize + DeserializeOwned + Send,
    E: Into<anyhow::Error> + Send,
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
    E: Into<anyhow::Error>,
{
    let Some(timeout) = timeout else {
        return body.await.map_err(Into::into);
    };
    match ctx.deadline(timeout).bound(body).await {
        Timed::InTime(result) => result.map_err(Into::into),
        // Its own error says more, such as that it is permanent.
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

/// The value as it is recorded next, counted with what is recorded already, and as it is read from the record.
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
        // About what it adds to the answer of a claim.
        ctx.memo.count(key, key.len() + json.len() + 32)?;
        Ok((json, value))
    });
    counted.map_err(|error| permanent(error.into()))
}

impl TaskContext {
    /// What was recorded under a key, a value or an error; does not come back where this build cannot read it.
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
