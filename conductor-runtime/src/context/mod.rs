//! The context of a handler: the identity of its execution, injected values, and durable calls.

mod batch;
mod block;
mod body;
mod compare;
mod event;
mod input;
mod invoke;
mod lazy;
mod may_fail;
mod memo;
mod race;
mod row;
mod schedule;
mod sleep;
mod step;
mod transaction;
mod value;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::store::steps;
use conductor_postgres::{Clock, Deadline, RetryBudget};
use conductor_schedule::Window;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::{Cancel, Conductor};
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::task::{FromStates, States, Task, Trigger};
use crate::unreadable::Unreadable;
use crate::verdict::{heard, permanent};
use crate::worker::{Claim, Control, Phase, Standing, StepWriter};

pub use batch::{BatchContext, BatchItem};
pub use body::{RetryBody, StepBody};
pub use event::WaitForEvent;
pub use invoke::{InvokeChild, InvokeChildren, SettleChildren};
pub use may_fail::MayFail;
pub(crate) use memo::{
    Blocked, Decided, KINDS, Memo, NEW_INPUT, PART, Stands, Stop, Unloadable, Wait, Waiting, Wake,
    size,
};
pub use race::Race;
pub use row::WaitForRow;
pub use schedule::ScheduleStep;
pub use step::Step;
pub use transaction::{TransactionBody, TransactionResult, TransactionStep, Tx};
pub use value::StepValue;

/// The handler's context: its execution's identity, injected values, and durable calls.
///
/// A durable call has a key that is unique in its execution. A call whose result was recorded under its key never
/// runs again: after a crash, a failure or a suspension the handler runs again from the top, and recorded calls
/// return their results at once. Code between them runs again.
///
/// A context is borrowed and not `Clone`, so that no spawned task can outlive the attempt. Moving it into
/// `tokio::spawn` fails to compile with "borrowed data escapes outside of function". Use `join!`, or invoke a child.
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
    /// The first original if this execution is a repeat by `retry`; otherwise its own id.
    pub(crate) origin: Uuid,
    pub(crate) states: Arc<States>,
    pub(crate) trigger: Trigger,
    /// When the task may run; `None` if always.
    pub(crate) window: Option<Window>,
    pub(crate) cancel: CancellationToken,
    pub(crate) memo: Memo,
    /// `None` in a unit test without a database.
    pub(crate) durable: Option<Arc<Durable>>,
}

/// What a context needs for durable calls.
#[derive(Debug, Clone)]
pub(crate) struct Durable {
    pub(crate) conductor: Conductor,
    pub(crate) step_writer: StepWriter,
    pub(crate) standing: Standing,
    pub(crate) control: watch::Receiver<Control>,
    /// The orchestrator's id under which the execution was claimed.
    pub(crate) orchestrator: Option<i64>,
    pub(crate) clock: Clock,
    /// Whether this process may create triggers on tables.
    pub(crate) ddl: bool,
}

impl Durable {
    /// Returns whether the lease of the claim still holds.
    fn is_held(&self) -> bool {
        self.control.borrow().holder() == self.orchestrator
    }

    /// Returns the database's time, read now: an estimate that is behind would repeat the same decision. Returns the
    /// estimate if the database does not answer.
    async fn exact_now(&self) -> DateTime<Utc> {
        match self.conductor.clock().await {
            Ok((now, shift_ms)) => self.clock.set(now, shift_ms),
            Err(error) => tracing::debug!(%error, "the database's clock cannot be read"),
        }
        self.clock.now()
    }
}

impl TaskContext {
    /// Returns a `State<T>` argument; called by the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn argument<S: FromStates>(&self) -> anyhow::Result<S> {
        S::from_states(&self.states)
    }

    /// Returns the execution's id, which is the same for all its attempts.
    pub fn execution_id(&self) -> Uuid {
        self.execution_id
    }

    /// Returns the number of this attempt, from 1.
    ///
    /// Attempts that failed or crashed with their process count, suspensions do not.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns what started this execution: an invoke, a schedule's tick, an event, or a row change.
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

    /// Returns a text for external services that accept an idempotency key.
    ///
    /// It is the same at each replay and each `retry`, and different for each execution and key.
    pub fn idempotency_key(&self, key: &str) -> String {
        format!("{}:{key}", self.origin)
    }

    /// Returns the value of type `T` that the orchestrator was given by `.state(…)`.
    ///
    /// # Panics
    /// If no value of this type was given; the execution then fails without further attempts. Prefer an argument
    /// `State<T>`, which is checked when the orchestrator starts.
    #[track_caller]
    pub fn state<T: Send + Sync + 'static>(&self) -> &T {
        self.states.require()
    }

    /// Returns whether this execution was cancelled.
    ///
    /// From then on, whatever the handler returns, the execution ends as cancelled, so the handler may stop at the
    /// next suitable place.
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until this execution is cancelled; for `tokio::select!`.
    pub async fn until_cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Invokes another task and waits for its end. The worker's slot is free meanwhile.
    /// If the child fails, is cancelled or times out, the call returns an error, which the handler may handle. The
    /// outcome is recorded, so a replay returns the same. Cancelling this execution cancels the child, unless it is
    /// [detached](InvokeChild::detach). Several calls in one `join!` start their children together.
    ///
    /// Once the child has been created, a crash does not create another: the handler waits for the same one.
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

    /// Invokes a task once for each payload and waits until all have ended.
    ///
    /// Returns the outputs in the order of the payloads, or the first error in that order.
    ///
    /// The handler resumes once for all of them, however many there are.
    pub fn invoke_all<T: Task>(
        &self,
        key: impl Into<String>,
        payloads: impl IntoIterator<Item = T::Payload>,
    ) -> InvokeChildren<'_, T> {
        InvokeChildren::new(self, key.into(), payloads)
    }

    /// Cancels another execution. Returns false if it is unknown or has ended.
    ///
    /// Not recorded: a replay cancels again, which is harmless.
    pub fn cancel(&self, id: Uuid) -> Cancel<'_> {
        Cancel::new(self.conductor(), id).within(&self.memo)
    }

    /// Lets a cancel, a shutdown or the end of the task's window take effect here.
    ///
    /// Use it in long stretches of code without steps.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the execution was cancelled.
    pub async fn checkpoint(&self) -> Result<()> {
        self.go_on().await
    }

    /// Returns the code and details behind an error, the same in the first run and in each replay.
    ///
    /// The error is one of a step, a transaction, a race or a child of this execution. `None` for any other error.
    ///
    /// An error of a step is recorded if the handler continues after it, at the moment when it begins the next
    /// durable call. A replay then returns the recorded error and does not run the step. An error that ends the
    /// attempt is not recorded, and the next attempt runs the step again.
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

    /// Leaves the execution to a build that can read what is stored. Never returns.
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

    /// Must be called before new work begins: returns an error after a cancel, and gives the execution back at a
    /// shutdown or the end of the task's window. First records the errors that the handler has continued after.
    async fn go_on(&self) -> Result<()> {
        if self.cancelled() {
            return Err(self.is_cancelled());
        }
        self.memo.looked().await;
        self.record_errors().await?;
        // Inside a body nothing is given back: the body may run to its end.
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
            // Otherwise branches that wait could suspend the execution during the query.
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

    /// The lease may have been lost while the whole process was stopped, for example during a long poll.
    fn is_held(&self) -> bool {
        self.durable.as_deref().is_none_or(Durable::is_held)
    }

    fn stopping(&self) -> bool {
        self.durable
            .as_ref()
            .is_some_and(|durable| durable.control.borrow().phase != Phase::Working)
    }

    /// Returns the deadline `duration` from now, by the clock that tests move.
    fn deadline(&self, duration: Duration) -> Deadline {
        match &self.durable {
            Some(durable) => durable.clock.deadline(duration),
            // Without a worker nothing moves the clock.
            None => Clock::new(watch::channel(0).1).deadline(duration),
        }
    }

    /// Waits until this time has passed, by the same clock.
    fn pass(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let deadline = self.deadline(duration);
        async move { deadline.passed().await }
    }

    /// Waits as [`pass`](Self::pass) does, but a cancel or a shutdown ends it early.
    async fn pause(&self, duration: Duration) {
        let stopping = async {
            match &self.durable {
                Some(durable) => {
                    let mut control = durable.control.clone();
                    // Without a sender there will be no shutdown.
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

    /// Records what this run has found out before: a call that was given something else, and the errors that the
    /// handler has continued after.
    async fn record_errors(&self) -> Result<()> {
        self.record_new_input().await;
        while let Some(error) = self.memo.next_unrecorded() {
            let _busy = self.memo.busy();
            let (value, decided) = (error.value.clone(), error.decided.clone());
            // Two branches may write the same error; the second write changes nothing.
            self.record_with(&error.key, error.kind, value, decided)
                .await?;
            self.memo.note_recorded(&error);
        }
        Ok(())
    }

    /// Returns the error of a body in the form in which the handler receives it, which is also what a replay reads if
    /// the error is recorded.
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

    /// Returns once the record is committed. If the claim is lost, never returns, and the worker drops the handler.
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
            .step_writer
            .record(self.execution_id, self.claim, key, kind, value, decided)
            .await?;
        if !held {
            self.memo.stop(Stop::Lost);
            std::future::pending::<()>().await;
        }
        self.memo.give_at(durable.clock.now().timestamp_micros());
        Ok(())
    }

    /// Returns whether a step is recorded, after any write that is still in progress for this execution. Never
    /// returns if the claim is lost, because the record may then be that of the next claim. Retries until the
    /// database answers; the lease ends the handlers of a process that waits too long.
    async fn recorded(&self, key: &str) -> Result<bool> {
        let conductor = self.conductor()?;
        let mut budget = RetryBudget::new(Duration::MAX);
        loop {
            let asked = steps::recorded(
                conductor.database(),
                &budget,
                self.execution_id,
                key,
                self.claim.number,
                self.claim.orchestrator,
            );
            match asked.await {
                Ok(Some(recorded)) => return Ok(recorded),
                Ok(None) => {
                    self.memo.stop(Stop::Lost);
                    std::future::pending().await
                }
                Err(error) => {
                    conductor.outage().met(&error);
                    if !budget.may_retry(&error).await {
                        return Err(error.into());
                    }
                }
            }
        }
    }
}
