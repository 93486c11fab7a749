use std::future::{Future, IntoFuture};
use std::pin::Pin;

use uuid::Uuid;

use super::Conductor;
use crate::context::Memo;
use crate::db::{OUTAGE, Patience};
use crate::error::Result;

/// A cancel that is being said; `.await` does it.
#[must_use = "a cancel does nothing until it is awaited"]
pub struct Cancel<'c> {
    conductor: Result<&'c Conductor>,
    /// Where a handler says it.
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

    /// Not cut short where the handler's other branches wait.
    pub(crate) fn within(mut self, memo: &'c Memo) -> Self {
        self.memo = Some(memo);
        self
    }

    /// Why; kept with the execution and shown to whoever waits for its result.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        // Postgres stores no NUL.
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
            let mut patience = Patience::new(OUTAGE);
            loop {
                let cancelled = sqlx::query_scalar("select conductor.cancel($1, $2)")
                    .bind(self.id)
                    .bind(&self.reason);
                match patience.ask(conductor.database(), cancelled).await {
                    Ok(cancelled) => return Ok(cancelled.unwrap_or_default()),
                    // A deadlock, too: parents are locked before their children, but recovery locks
                    // whom it finds.
                    Err(error) if patience.again(&error).await => {}
                    Err(error) => return Err(patience.over(error)),
                }
            }
        })
    }
}
