use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, PgConnection, Postgres, SqlStr};

use super::TaskContext;
use super::memo::Stop;
use super::step::{encoded, replayed};
use crate::db::{Fault, fault};
use crate::error::Error;
use crate::worker::HandlerTransaction;

const KIND: &str = "transaction";
/// Raised by `conductor.record_in_transaction` when the claim is lost.
const CLAIM_LOST: &str = "CD004";
/// The same, where the execution was cancelled.
const CANCELLED: &str = "CD005";

/// The transaction of [`TaskContext::transaction`]: an executor for sqlx, as `tx`, `&mut *tx` or
/// `&mut **tx`. It commits with the step's record and cannot be committed by the body.
#[derive(Debug)]
pub struct Tx(HandlerTransaction);

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0.transaction
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0.transaction
    }
}

type Boxed<'e, T> = Pin<Box<dyn Future<Output = T> + Send + 'e>>;

impl<'t> Executor<'t> for &'t mut Tx {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> Pin<Box<dyn Stream<Item = Result<Either<PgQueryResult, PgRow>, sqlx::Error>> + Send + 'e>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&mut **self).fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> Boxed<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        (&mut **self).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> Boxed<'e, Result<PgStatement, sqlx::Error>>
    where
        't: 'e,
    {
        (&mut **self).prepare_with(sql, parameters)
    }
}

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

impl TaskContext {
    /// A step whose effects are in this database: the body's writes and the step's record commit
    /// together or not at all, so they happen exactly once, whatever crashes.
    ///
    /// An error of the body rolls back. A worker that has lost its claim cannot commit.
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
    pub fn transaction<T, E, F>(
        &self,
        key: impl Into<String>,
        body: F,
    ) -> impl Future<Output = anyhow::Result<T>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<anyhow::Error> + Send,
        F: AsyncFnOnce(&mut Tx) -> Result<T, E> + for<'t> TransactionBody<'t, Result<T, E>> + Send,
    {
        let key = key.into();
        let met = self.memo.meet(&key, KIND);
        async move {
            if let Some(recorded) = met? {
                return replayed(&key, &recorded);
            }
            self.go_on().await?;
            let _busy = self.memo.busy();
            let mut tx = Tx(self.durable()?.recorder.begin().await?);
            let value = body(&mut tx).await.map_err(Into::into)?;
            let json = encoded(&key, &value)?;
            let (id, claim) = (self.execution_id, self.claim);
            let recorded =
                sqlx::query("select conductor.record_in_transaction($1, $2, $3, $4, $5)")
                    .bind(id)
                    .bind(claim)
                    .bind(&key)
                    .bind(KIND)
                    .bind(&json)
                    .execute(&mut *tx)
                    .await;
            if let Err(error) = recorded {
                let code = error.as_database_error().and_then(|db| db.code());
                return match code.as_deref() {
                    Some(CLAIM_LOST) => {
                        self.memo.stop(Stop::Lost);
                        std::future::pending().await
                    }
                    Some(CANCELLED) => Err(self.is_cancelled().into()),
                    _ => Err(Error::from(error).into()),
                };
            }
            match tx.0.transaction.commit().await {
                Ok(()) => Ok(value),
                // Nobody knows whether it committed; the record, which did or did not with it, does.
                Err(error) if fault(&error) == Fault::Passing => {
                    tracing::debug!(%error, "the commit of a transaction step is in doubt");
                    match self.recorded(&key).await? {
                        true => Ok(value),
                        false => Err(Error::from(error).into()),
                    }
                }
                Err(error) => Err(Error::from(error).into()),
            }
        }
    }
}
