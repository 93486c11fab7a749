use std::future::{Future, IntoFuture};
use std::pin::Pin;

use uuid::Uuid;

use super::Conductor;
use super::insert::{MAX_ROWS, NewExecution, insert};
use super::invoke::checked;
use crate::error::Result;
use crate::task::Task;

/// Many invokes of one task, all or none; `.await` makes the executions.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeBatch<'c> {
    conductor: &'c Conductor,
    rows: Result<Vec<NewExecution>>,
}

impl<'c> InvokeBatch<'c> {
    pub(super) fn new<T: Task>(
        conductor: &'c Conductor,
        payloads: impl IntoIterator<Item = T::Payload>,
    ) -> Self {
        Self {
            conductor,
            rows: payloads
                .into_iter()
                .map(|payload| NewExecution::of::<T>(&payload))
                .collect(),
        }
    }
}

impl<'c> IntoFuture for InvokeBatch<'c> {
    type Output = Result<Vec<Uuid>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let rows = self.rows?;
            let Some(first) = rows.first() else {
                return Ok(Vec::new());
            };
            self.conductor.ensure_declared(&first.task).await?;
            let pool = self.conductor.pool();
            if rows.len() <= MAX_ROWS {
                // A statement is a transaction of its own.
                insert(&mut *pool.acquire().await?, &rows, false, false).await?;
            } else {
                let mut tx = pool.begin().await?;
                for chunk in rows.chunks(MAX_ROWS) {
                    insert(&mut tx, chunk, true, false).await?;
                }
                tx.commit().await?;
            }
            Ok(rows.into_iter().map(|row| row.id).collect())
        })
    }
}

impl Conductor {
    /// Makes an execution of the named task for each payload, all or none; the payloads are JSON
    /// already.
    ///
    /// # Errors
    /// As [`invoke_json`](Self::invoke_json).
    pub fn invoke_batch_json<'a>(
        &self,
        task: &str,
        payloads: impl IntoIterator<Item = &'a str>,
    ) -> InvokeBatch<'_> {
        InvokeBatch {
            conductor: self,
            rows: payloads
                .into_iter()
                .map(|payload| checked(task, payload))
                .collect(),
        }
    }
}
