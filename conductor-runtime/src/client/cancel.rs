use std::future::{Future, IntoFuture};
use std::pin::Pin;

use conductor_postgres::store::executions;
use conductor_postgres::{OUTAGE, RetryBudget};
use uuid::Uuid;

use super::Conductor;
use crate::context::Memo;
use crate::error::Result;

/// A builder for a cancel. Does nothing until awaited.
///
/// `.await` returns false if the execution is unknown or has ended.
#[must_use = "a cancel does nothing until it is awaited"]
pub struct Cancel<'c> {
    conductor: Result<&'c Conductor>,
    /// The memo of the handler that cancels; `None` outside a handler.
    memo: Option<&'c Memo>,
    id: Uuid,
    reason: Option<String>,
}

impl<'c> Cancel<'c> {
    pub(crate) fn new(conductor: Result<&'c Conductor>, id: Uuid) -> Self {
        Self {
            conductor,
            memo: None,
            id,
            reason: None,
        }
    }

    /// Runs within a handler: it must not suspend during the cancel, even if all its other branches
    /// wait.
    pub(crate) fn within(mut self, memo: &'c Memo) -> Self {
        self.memo = Some(memo);
        self
    }

    /// Sets the reason, which callers that wait for the result receive.
    ///
    /// It is stored with the execution.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        // Postgres cannot store U+0000 in text.
        self.reason = Some(reason.into().replace('\0', "\u{fffd}"));
        self
    }
}

impl<'c> IntoFuture for Cancel<'c> {
    type Output = Result<bool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if let Some(memo) = self.memo {
                memo.looked().await;
            }
            let _busy = self.memo.map(Memo::busy);
            let conductor = self.conductor?;
            conductor.migrate().await?;
            let (budget, reason) = (RetryBudget::new(OUTAGE), self.reason.as_deref());
            Ok(executions::cancel(conductor.database(), budget, self.id, reason).await?)
        })
    }
}
