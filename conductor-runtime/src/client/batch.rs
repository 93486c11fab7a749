use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use uuid::Uuid;

use super::Conductor;
use super::insert::{MAX_ROWS, NewExecution, insert};
use super::invoke::checked;
use crate::db::take_message;
use crate::error::Result;
use crate::task::{PointInTime, Task};

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

    /// None of them before this instant, as [`Invoke::run_at`](super::Invoke::run_at).
    pub fn run_at(self, at: impl PointInTime) -> Self {
        let at = at.utc();
        self.set(|new| new.set_run_at(at))
    }

    /// None of them before this long from now, as [`Invoke::delay`](super::Invoke::delay).
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|new| new.set_delay(delay))
    }

    /// Instead of the task's own priority; higher is claimed first.
    pub fn priority(self, priority: i32) -> Self {
        self.set(|new| {
            new.priority = Some(priority);
            Ok(())
        })
    }

    fn set(mut self, change: impl Fn(&mut NewExecution) -> Result<()>) -> Self {
        self.rows = self.rows.and_then(|mut rows| {
            rows.iter_mut().try_for_each(change)?;
            Ok(rows)
        });
        self
    }
}

impl<'c> IntoFuture for InvokeBatch<'c> {
    type Output = Result<Vec<Uuid>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut rows = self.rows?;
            let Some(first) = rows.first() else {
                return Ok(Vec::new());
            };
            self.conductor.ensure_declared(&first.task).await?;
            let ids = rows.iter().map(|row| row.id).collect();
            let pool = self.conductor.pool();
            let first = take_message(&mut rows, MAX_ROWS, NewExecution::bytes);
            if rows.is_empty() {
                // A statement is a transaction of its own.
                insert(&mut *pool.acquire().await?, &first, false, false).await?;
            } else {
                let mut tx = pool.begin().await?;
                insert(&mut tx, &first, true, false).await?;
                while !rows.is_empty() {
                    let next = take_message(&mut rows, MAX_ROWS, NewExecution::bytes);
                    insert(&mut tx, &next, true, false).await?;
                }
                tx.commit().await?;
            }
            Ok(ids)
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
