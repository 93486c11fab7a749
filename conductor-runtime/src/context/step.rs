use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::TaskContext;
use super::memo::Met;
use crate::codec;
use crate::error::{Error, Result, permanent};

const KIND: &str = "step";

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
    /// How long the body may take; its record is not counted. No limit but the task's by default.
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
        let key = key.into();
        let met = self.memo.meet(&key, KIND);
        let timeout = Arc::new(OnceLock::new());
        Step {
            future: Box::pin(run(self, key, met, body, Arc::clone(&timeout))),
            timeout,
        }
    }
}

async fn run<T, E, F, Fut>(
    ctx: &TaskContext,
    key: String,
    met: Met,
    body: F,
    timeout: Arc<OnceLock<Duration>>,
) -> anyhow::Result<T>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    T: Serialize + DeserializeOwned,
    E: Into<anyhow::Error>,
{
    if let Some(recorded) = met? {
        return replayed(&key, &recorded);
    }
    ctx.go_on().await?;
    let _busy = ctx.memo.busy();
    let body = ctx.memo.inside(KIND, body());
    let value = match timeout.get() {
        None => body.await.map_err(Into::into)?,
        Some(timeout) => match tokio::time::timeout(*timeout, body).await {
            Ok(result) => result.map_err(Into::into)?,
            Err(_) => anyhow::bail!(
                "step {key:?} timed out after {}",
                humantime::format_duration(*timeout)
            ),
        },
    };
    ctx.record(&key, KIND, encoded(&key, &value)?).await?;
    Ok(value)
}

pub(super) fn encoded<T: Serialize>(key: &str, value: &T) -> anyhow::Result<String> {
    codec::encode(value).map_err(|reason| {
        permanent(
            Error::Step {
                key: key.to_owned(),
                reason,
            }
            .into(),
        )
    })
}

pub(super) fn replayed<T: DeserializeOwned>(key: &str, recorded: &RawValue) -> anyhow::Result<T> {
    serde_json::from_str(recorded.get()).map_err(|error| {
        permanent(
            Error::Step {
                key: key.to_owned(),
                reason: format!("what was recorded is not what this build expects: {error}"),
            }
            .into(),
        )
    })
}
