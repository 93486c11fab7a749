use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use conductor_postgres::sqlstate::{CANCELLED, CLAIM_LOST};
use conductor_postgres::store::steps::{self, Record};
use conductor_postgres::{Fault, RetryBudget, fault};
use sqlx::postgres::PgQueryResult;
use sqlx::{PgConnection, Postgres, Transaction};

use super::TaskContext;
use super::input::Input;
use super::memo::{Met, Stop};
use super::step::encoded;
use super::value::StepValue;
use crate::error::Error;
use crate::task::HandlerError;

const KIND: &str = "transaction";
/// The record's kind for a transaction that failed.
const FAILED: &str = "failed transaction";

/// The argument of a [`TaskContext::transaction`]'s body: an executor for sqlx, as `tx` or
/// `&mut *tx`.
///
/// The transaction around it commits with the step's record; the body cannot commit it.
pub type Tx = PgConnection;

/// The body of a [`TaskContext::transaction`]: an `async |tx| { … }` whose future is `Send`.
pub trait TransactionBody<'t, R>: FnOnce(&'t mut Tx) -> Self::Future {
    /// What the body returns.
    type Future: Future<Output = R> + Send;
}

impl<'t, F, Fut, R> TransactionBody<'t, R> for F
where
    F: FnOnce(&'t mut Tx) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

/// The result of a [`TaskContext::transaction`]'s body, and what the step then records and returns.
///
/// A [`StepValue`] is recorded as it is. `Result<PgQueryResult, sqlx::Error>`, the result of sqlx's `execute`, is
/// recorded as `()`, because a replay could not restore a `PgQueryResult`.
pub trait TransactionResult<T, E> {
    /// Returns the result with the value to record.
    fn recordable(self) -> Result<T, E>;
}

impl<T: StepValue, E> TransactionResult<T, E> for Result<T, E> {
    fn recordable(self) -> Self {
        self
    }
}

// For sqlx's error only: with any error, the compiler could not tell the value of a body that returns nothing but
// errors where `()` is expected.
#[diagnostic::do_not_recommend]
impl TransactionResult<(), sqlx::Error> for Result<PgQueryResult, sqlx::Error> {
    fn recordable(self) -> Result<(), sqlx::Error> {
        self.map(drop)
    }
}

/// A transaction step, and its future. Does nothing until awaited.
#[must_use = "a transaction does nothing until it is awaited"]
pub struct TransactionStep<'c, T>(Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'c>>);

impl<T> Future for TransactionStep<'_, T> {
    type Output = anyhow::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for TransactionStep<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionStep").finish_non_exhaustive()
    }
}

impl TaskContext {
    /// Runs a step whose writes to this database take effect exactly once.
    ///
    /// The body's writes and the step's record commit together or not at all, even if the process
    /// crashes.
    ///
    /// An error of the body rolls its writes back. A worker that has lost its claim, or whose
    /// execution was cancelled, cannot commit.
    ///
    /// The value is recorded like that of a [`step`](Self::step). If the body returns the result of sqlx's `execute`
    /// as it is, the value is `()`; to keep the number of rows, return `rows_affected()`.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// #[task]
    /// async fn deposit(ctx: &TaskContext, account: i64, cents: i64) -> anyhow::Result<i64> {
    ///     ctx.transaction("book", async |tx| {
    ///         sqlx::query_scalar("update accounts set cents = cents + $2 where id = $1 returning cents")
    ///             .bind(account)
    ///             .bind(cents)
    ///             .fetch_one(tx)
    ///             .await
    ///     })
    ///     .await
    /// }
    /// ```
    pub fn transaction<'c, T, E, F, V>(
        &'c self,
        key: impl Into<String>,
        body: F,
    ) -> TransactionStep<'c, T>
    where
        T: StepValue + 'c,
        V: Send + 'c,
        E: HandlerError + Send + 'c,
        Result<V, E>: TransactionResult<T, E>,
        F: AsyncFnOnce(&mut Tx) -> Result<V, E>
            + for<'t> TransactionBody<'t, Result<V, E>>
            + Send
            + 'c,
    {
        let key = key.into();
        let met = self.memo.meet(&key, KIND);
        TransactionStep(Box::pin(self.transact(key, KIND, met, None, body)))
    }

    /// Does the same for every kind of step whose effect is in this database.
    // An `async fn` could not declare its future as `Send`, which callers require.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn transact<T, E, F, V>(
        &self,
        key: String,
        kind: &'static str,
        met: Met,
        input: Option<Input>,
        body: F,
    ) -> impl Future<Output = anyhow::Result<T>> + Send
    where
        T: StepValue,
        V: Send,
        E: HandlerError + Send,
        Result<V, E>: TransactionResult<T, E>,
        F: AsyncFnOnce(&mut Tx) -> Result<V, E> + for<'t> TransactionBody<'t, Result<V, E>> + Send,
    {
        async move {
            if let Some(recorded) = met? {
                return self.replayed(&key, kind, &recorded).await;
            }
            self.go_on().await?;
            // A nested transaction would hold one connection while it waits for another.
            self.memo.outside(&key, KIND)?;
            let _busy = self.memo.busy();
            let step_writer = &self.durable()?.step_writer;
            let mut budget = RetryBudget::new(Duration::MAX);
            loop {
                let mut slot = step_writer.slot(&mut budget).await?;
                match slot.begin().await {
                    Ok(tx) => return self.within(tx, (&key, kind, input), body).await,
                    Err(error) => step_writer.again(&mut budget, error).await?,
                }
            }
        }
    }

    /// Runs the body, writes its record, and commits both.
    async fn within<T, E, F, V>(
        &self,
        mut tx: Transaction<'_, Postgres>,
        (key, kind, input): (&str, &'static str, Option<Input>),
        body: F,
    ) -> anyhow::Result<T>
    where
        T: StepValue,
        V: Send,
        E: HandlerError + Send,
        Result<V, E>: TransactionResult<T, E>,
        F: AsyncFnOnce(&mut Tx) -> Result<V, E> + for<'b> TransactionBody<'b, Result<V, E>> + Send,
    {
        let body = body(&mut tx);
        // Other kinds of steps also use a transaction, but their errors are not those of a body.
        let number = self.memo.next_body();
        let failed = |error: anyhow::Error| match kind {
            KIND => self.failed(key, FAILED, number, error),
            _ => error,
        };
        let body = self.memo.inside(KIND, number, body).await;
        let value = body.recordable().map_err(|error| failed(error.into()))?;
        let (json, value) = encoded(self, key, &value)?;
        let record = Record {
            id: self.execution_id,
            claim: self.claim.number,
            orchestrator: self.claim.orchestrator,
            key,
            kind,
            value: &json,
            input: input.map(|input| input.0),
        };
        let recorded = steps::record_in_transaction(&mut tx, record).await;
        if let Err(error) = recorded {
            let code = error.as_database_error().and_then(|db| db.code());
            return match code.as_deref() {
                Some(CLAIM_LOST) => {
                    self.memo.stop(Stop::Lost);
                    std::future::pending().await
                }
                Some(CANCELLED) => Err(self.is_cancelled().into()),
                _ => Err(failed(Error::from(error).into())),
            };
        }
        match tx.commit().await {
            Ok(()) => {
                self.memo
                    .give_at(self.durable()?.clock.now().timestamp_micros());
                Ok(value)
            }
            // Whether it committed is unknown. The record, which commits with it, tells.
            Err(error) if fault(&error) == Fault::Passing => {
                tracing::debug!(%error, "the commit of a transaction step is in doubt");
                match self.recorded(key).await? {
                    true => Ok(value),
                    false => Err(failed(Error::from(error).into())),
                }
            }
            Err(error) => Err(failed(Error::from(error).into())),
        }
    }
}
