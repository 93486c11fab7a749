//! What a handler sees of its execution, and what it does durably.

mod batch;
mod block;
mod event;
mod invoke;
mod lazy;
mod memo;
mod race;
mod row;
mod schedule;
mod sleep;
mod step;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_schedule::Window;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::{Cancel, Conductor};
use crate::db::{Clock, Deadline, Patience};
use crate::error::{Error, Result};
use crate::failure::{Failure, MayFail};
use crate::task::{FromStates, States, Task, Trigger};
use crate::unreadable::Unreadable;
use crate::verdict::{heard, permanent};
use crate::worker::{Claim, Control, Phase, Recorder, Standing};

pub use batch::{BatchContext, BatchItem};
pub use event::WaitForEvent;
pub use invoke::{InvokeChild, InvokeChildren, SettleChildren};
pub(crate) use memo::{
    Blocked, Decided, KINDS, Memo, PART, Stands, Stop, Unloadable, Wait, Waiting, Wake, size,
};
pub use race::Race;
pub use row::WaitForRow;
pub use schedule::ScheduleStep;
pub use step::Step;
pub use transaction::{TransactionBody, Tx};

/// The handler's view of its execution: identity, injected values, and everything durable.
///
/// A durable piece has a key, unique in its execution. What was recorded under a key is never done
/// again: after a crash, a failure or a suspension the handler runs again from the top, and
/// recorded pieces return at once. Code between them runs again.
///
/// A context is borrowed and not `Clone`, so that no spawned task outlives the attempt: in
/// `tokio::spawn` it is refused with "borrowed data escapes outside of function". Use `join!`, or
/// invoke a child.
///
/// ```
/// use conductor::prelude::*;
/// use std::time::Duration;
///
/// #[task]
/// async fn order(ctx: &TaskContext, item: String) -> anyhow::Result<String> {
///     let charge: u64 = ctx.step("charge", || async { charge(&item).await }).await?;
///     ctx.sleep("cool down", Duration::from_secs(60)).await?;
///     Ok(format!("charge {charge}"))
/// }
/// # async fn charge(_: &str) -> anyhow::Result<u64> { Ok(1) }
/// ```
#[derive(Debug)]
pub struct TaskContext {
    pub(crate) execution_id: Uuid,
    /// Empty in a unit test.
    pub(crate) task: &'static str,
    pub(crate) claim: Claim,
    pub(crate) attempt: u32,
    /// The first execution where this one is a repeat, by `retry`.
    pub(crate) origin: Uuid,
    pub(crate) states: Arc<States>,
    pub(crate) trigger: Trigger,
    /// When the task may run; none where it always may.
    pub(crate) window: Option<Window>,
    pub(crate) cancel: CancellationToken,
    pub(crate) memo: Memo,
    /// None in a unit test without a database.
    pub(crate) durable: Option<Arc<Durable>>,
}

/// The way to the database.
#[derive(Debug, Clone)]
pub(crate) struct Durable {
    pub(crate) conductor: Conductor,
    pub(crate) recorder: Recorder,
    pub(crate) standing: Standing,
    pub(crate) control: watch::Receiver<Control>,
    /// Under which identity the execution was claimed.
    pub(crate) orchestrator: Option<i64>,
    pub(crate) clock: Clock,
    /// Whether triggers on tables may be made.
    pub(crate) ddl: bool,
}

impl Durable {
    /// Whether the lease of the claim still holds.
    fn is_held(&self) -> bool {
        self.control.borrow().holder() == self.orchestrator
    }

    /// The database's time, for what an estimate that runs behind would do again and again. Where the
    /// database does not answer, the estimate.
    async fn exact_now(&self) -> DateTime<Utc> {
        match self.conductor.clock().await {
            Ok((now, shift_ms)) => self.clock.set(now, shift_ms),
            Err(error) => tracing::debug!(%error, "the database's clock cannot be read"),
        }
        self.clock.now()
    }
}

impl TaskContext {
    /// Takes a `State<T>` argument; called by the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn argument<S: FromStates>(&self) -> anyhow::Result<S> {
        S::from_states(&self.states)
    }

    /// The execution's id, the same over all attempts.
    pub fn execution_id(&self) -> Uuid {
        self.execution_id
    }

    /// Which attempt this is, from 1. Attempts that failed or died with their process count,
    /// suspensions do not.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What started this execution: an invoke, a tick of a schedule, an event, or a change of a row.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// use conductor::Trigger;
    ///
    /// #[task]
    /// async fn report(ctx: &TaskContext) -> anyhow::Result<()> {
    ///     match ctx.trigger() {
    ///         Trigger::Schedule { name, scheduled_at } => println!("{name}, due {scheduled_at}"),
    ///         _ => println!("by hand"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// A text that is the same at each replay and each `retry`, and different for each execution
    /// and key; for services that take one.
    pub fn idempotency_key(&self, key: &str) -> String {
        format!("{}:{key}", self.origin)
    }

    /// A value given to the orchestrator by `.state(…)`.
    ///
    /// # Panics
    /// Where none of this type was given, which fails the execution for good. An argument `State<T>` is
    /// checked when the orchestrator starts, and is to be preferred.
    #[track_caller]
    pub fn state<T: Send + Sync + 'static>(&self) -> &T {
        self.states.require()
    }

    /// Whether somebody has cancelled this execution. What the handler returns from then on is
    /// recorded as cancelled, so it may stop at the next good place.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends when somebody cancels this execution; for `tokio::select!`.
    pub async fn until_cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Invokes another task and waits for its end; the worker's slot is free meanwhile.
    ///
    /// The child's failure, cancel or timeout is an `Err` that the handler may deal with. Whatever
    /// came is recorded. Cancelling this execution cancels the child. Several in one `join!` are
    /// started together.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use std::time::Duration;
    /// #[task]
    /// async fn double(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> { Ok(n * 2) }
    ///
    /// #[task]
    /// async fn parent(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ///     let twice = ctx
    ///         .invoke::<Double>("double", Double { n })
    ///         .timeout(Duration::from_secs(60))
    ///         .await?;
    ///     Ok(twice + 10)
    /// }
    /// ```
    pub fn invoke<T: Task>(
        &self,
        key: impl Into<String>,
        payload: T::Payload,
    ) -> InvokeChild<'_, T> {
        InvokeChild::new(self, key.into(), &payload)
    }

    /// Invokes a task once for each payload and waits for the end of all; gives the outputs in
    /// their order, or the first one's error. The handler resumes once, however many there are.
    pub fn invoke_all<T: Task>(
        &self,
        key: impl Into<String>,
        payloads: impl IntoIterator<Item = T::Payload>,
    ) -> InvokeChildren<'_, T> {
        InvokeChildren::new(self, key.into(), payloads)
    }

    /// Cancels another execution; false where it is unknown or has ended. Not recorded: cancelling
    /// twice is harmless.
    pub fn cancel(&self, id: Uuid) -> Cancel<'_> {
        Cancel::new(self.conductor(), id).within(&self.memo)
    }

    /// A place where a cancel, a shutdown or the end of the task's window may take effect, for long
    /// stretches without steps.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where the execution was cancelled.
    pub async fn checkpoint(&self) -> Result<()> {
        self.go_on().await
    }

    /// The failure behind an error that a step, a transaction, a race or a child of this execution gave: its code and its
    /// details, the same in the first run and in each replay. None where the error is none of those.
    ///
    /// An error of a step is recorded if the handler goes on from it, which it has when it begins the next durable call. A
    /// replay gives the recorded error and does not run the step. An error that ends the attempt is not kept: the next
    /// attempt runs the step again, whatever else is recorded.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// #[task]
    /// async fn pay(ctx: &TaskContext, cents: u64) -> anyhow::Result<u64> {
    ///     if cents > 1000 {
    ///         anyhow::bail!(conductor::Failure::new("declined", "too much for this card"));
    ///     }
    ///     Ok(cents)
    /// }
    ///
    /// #[task]
    /// async fn order(ctx: &TaskContext, cents: u64) -> anyhow::Result<String> {
    ///     match ctx.invoke::<Pay>("pay", Pay { cents }).await {
    ///         Ok(paid) => Ok(format!("paid {paid}")),
    ///         Err(error) => match ctx.failure(&error) {
    ///             Some(failure) if failure.code() == Some("declined") => Ok("declined".to_owned()),
    ///             _ => Err(error.into()),
    ///         },
    ///     }
    /// }
    /// ```
    pub fn failure(&self, error: &impl MayFail) -> Option<Failure> {
        error.failure_in(&self.memo)
    }

    /// Where something stored cannot be read: does not come back, and the execution is left for a build
    /// that can.
    pub(crate) async fn leave<T>(&self, unreadable: Unreadable) -> T {
        self.memo.leave(unreadable).await
    }

    fn conductor(&self) -> Result<&Conductor> {
        self.durable().map(|durable| &durable.conductor)
    }

    fn durable(&self) -> Result<&Durable> {
        self.durable.as_deref().ok_or_else(|| {
            Error::Invalid(
                "this context has no database: use TestConductor::context, or run the task"
                    .to_owned(),
            )
        })
    }

    /// Where new work is about to begin: a cancel ends it, a shutdown or the end of the task's window gives the
    /// execution back. The errors that the handler has gone on from are recorded before.
    async fn go_on(&self) -> Result<()> {
        if self.cancelled() {
            return Err(self.is_cancelled());
        }
        self.memo.looked().await;
        self.record_errors().await?;
        // Inside a body nothing new begins: it may end.
        if self.memo.is_inside() {
            return Ok(());
        }
        if self.memo.is_left() {
            std::future::pending::<()>().await;
        }
        if self.stopping() || !self.is_held() {
            self.memo.stop(Stop::Released);
            std::future::pending::<()>().await;
        }
        if let (Some(window), Some(durable)) = (&self.window, &self.durable)
            && !window.is_open(durable.clock.now())
        {
            // Nothing that waits beside this may suspend the execution meanwhile.
            let busy = self.memo.busy();
            let now = durable.exact_now().await;
            drop(busy);
            if !window.is_open(now) {
                self.memo.stop(Stop::Closed(window.opens_after(now)));
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    /// A long poll may have been stopped together with its process.
    fn is_held(&self) -> bool {
        self.durable.as_deref().is_none_or(Durable::is_held)
    }

    fn stopping(&self) -> bool {
        self.durable
            .as_ref()
            .is_some_and(|durable| durable.control.borrow().phase != Phase::Working)
    }

    /// The time so long from now, by the clock that tests move.
    fn deadline(&self, duration: Duration) -> Deadline {
        match &self.durable {
            Some(durable) => durable.clock.deadline(duration),
            // Nobody moves it.
            None => Clock::new(watch::channel(0).1).deadline(duration),
        }
    }

    /// Ends when this time has passed, by the same clock.
    fn pass(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let deadline = self.deadline(duration);
        async move { deadline.passed().await }
    }

    /// As [`pass`](Self::pass), but a cancel or a shutdown ends it early.
    async fn pause(&self, duration: Duration) {
        let stopping = async {
            match &self.durable {
                Some(durable) => {
                    let mut control = durable.control.clone();
                    // Without a sender there is no shutdown to wait for.
                    if control
                        .wait_for(|control| control.phase != Phase::Working)
                        .await
                        .is_err()
                    {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.pass(duration) => {}
            () = self.until_cancelled() => {}
            () = stopping => {}
        }
    }

    fn is_cancelled(&self) -> Error {
        Error::Cancelled {
            id: self.execution_id,
            task: self.task.to_owned(),
            reason: None,
        }
    }

    /// Records the errors that the handler has gone on from.
    async fn record_errors(&self) -> Result<()> {
        while let Some(error) = self.memo.next_unrecorded() {
            let _busy = self.memo.busy();
            let (value, decided) = (error.value.clone(), error.decided.clone());
            // Two branches may write the same one; the second changes nothing.
            self.record_with(&error.key, error.kind, value, decided)
                .await?;
            self.memo.note_recorded(&error);
        }
        Ok(())
    }

    /// The error of a body as the handler is given it: what a replay would read, if it goes on from it.
    fn failed(
        &self,
        key: &str,
        kind: &'static str,
        body: usize,
        error: anyhow::Error,
    ) -> anyhow::Error {
        let failure = Failure::of(&error).of_step(key, self.memo.errors_within(body));
        let value = failure.to_record();
        if let Err(error) = self.memo.count(key, value.len()) {
            return permanent(error.into());
        }
        let error = failure.into();
        heard(&error);
        self.memo.fail(key, kind, value, Decided::default(), &error);
        error
    }

    /// Returns when the record is committed. Where the claim is lost it never returns, and the
    /// worker drops the handler.
    async fn record(&self, key: &str, kind: &'static str, value: String) -> Result<()> {
        self.record_with(key, kind, value, Decided::default()).await
    }

    async fn record_with(
        &self,
        key: &str,
        kind: &'static str,
        value: String,
        decided: Decided,
    ) -> Result<()> {
        let Some(durable) = &self.durable else {
            return Ok(());
        };
        let held = durable
            .recorder
            .record(self.execution_id, self.claim, key, kind, value, decided)
            .await?;
        if !held {
            self.memo.stop(Stop::Lost);
            std::future::pending::<()>().await;
        }
        self.memo.give_at(durable.clock.now().timestamp_micros());
        Ok(())
    }

    /// Whether a step is recorded, asked behind whatever still writes for this execution; never returns where
    /// the claim is lost, as the record may be that of the next one.
    /// Asked until there is an answer; the lease ends the handlers of a process that waits too long.
    async fn recorded(&self, key: &str) -> Result<bool> {
        let conductor = self.conductor()?;
        let mut patience = Patience::new(Duration::MAX);
        loop {
            let recorded = sqlx::query_scalar("select conductor.recorded($1, $2, $3, $4)")
                .bind(self.execution_id)
                .bind(key)
                .bind(self.claim.number)
                .bind(self.claim.orchestrator);
            let asked = patience.ask(conductor.database(), recorded);
            match asked.await.map(Option::<Option<bool>>::flatten) {
                Ok(Some(recorded)) => return Ok(recorded),
                Ok(None) => {
                    self.memo.stop(Stop::Lost);
                    std::future::pending().await
                }
                Err(error) => {
                    conductor.outage().met(&error);
                    if !patience.again(&error).await {
                        return Err(error.into());
                    }
                }
            }
        }
    }
}
