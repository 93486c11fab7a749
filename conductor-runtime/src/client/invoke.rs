use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::insert::{Answer, insert};
use super::invocation::{Invocation, NewExecution};
use super::{Conductor, Execution, Untyped};
use crate::codec;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::task::{PointInTime, Task};
use crate::unreadable::read;

/// A builder for an invocation. Does nothing until awaited.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct Invoke<'c, T: Task> {
    conductor: &'c Conductor,
    invocation: Invocation<T>,
}

/// An [`Invoke`] within the caller's transaction. Does nothing until awaited.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeInTransaction<'t, T: Task> {
    invoke: Invoke<'t, T>,
    connection: &'t mut PgConnection,
}

impl<'c, T: Task> Invoke<'c, T> {
    pub(super) fn new(conductor: &'c Conductor, payload: T::Payload) -> Self {
        Self {
            conductor,
            invocation: Invocation::new(payload),
        }
    }

    /// Sets the earliest start, by the database's clock. An instant in the past means now.
    pub fn run_at(self, at: impl PointInTime) -> Self {
        self.with(|invocation| invocation.run_at(at))
    }

    /// Sets the time to wait before the first attempt, counted from now by the database's clock.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|invocation| invocation.delay(delay))
    }

    /// Overrides the task's priority. Executions of higher priority are claimed first.
    pub fn priority(self, priority: i32) -> Self {
        self.with(|invocation| invocation.priority(priority))
    }

    /// Allows one execution per key at a time.
    ///
    /// The key belongs to the task and has 1 to 200 bytes.
    ///
    /// Until a worker first claims the execution, another call replaces its payload, and its time
    /// and priority if the call sets them; the id stays. From then until it ends, also while it
    /// sleeps or waits for its next attempt, a call leaves it unchanged and returns its handle.
    /// Once it has ended, the next call creates a new one. [`Execution::came_of`] tells which of
    /// these happened.
    ///
    /// Calls with the same key are serialized, whatever process they come from: a call waits for a
    /// transaction that holds its key. An execution that `retry` repeats has no key.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # #[task] async fn sync(ctx: &TaskContext, user: i64, version: u32) -> anyhow::Result<()> { Ok(()) }
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// let first = conductor.invoke::<Sync>(Sync { user: 7, version: 1 }).dedupe_key("user-7").await?;
    /// let again = conductor.invoke::<Sync>(Sync { user: 7, version: 2 }).dedupe_key("user-7").await?;
    /// // If no worker has claimed it in between, there is one execution, of version 2.
    /// println!("{}: {}, then {}", first.id() == again.id(), first.came_of(), again.came_of());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The invoke returns [`Error::Invalid`] if the key is empty, longer than 200 bytes, or
    /// contains U+0000.
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        self.with(|invocation| invocation.dedupe_key(key))
    }

    /// Creates at most one execution per `slot`, by the database's clock; the first call wins.
    ///
    /// Other calls within the slot return the handle of that execution, even if it has ended, and
    /// their payloads are dropped. The slot belongs to the task, or to the key if there is a
    /// [`dedupe_key`](Self::dedupe_key), and lasts from the call that created the execution.
    ///
    /// Once the slot is over, the next call creates a new execution and begins a new slot. With a
    /// dedupe key, the key still decides: if the execution has not started, its payload is replaced
    /// and a new slot begins; if it has started and not ended, it is returned and no slot begins.
    ///
    /// # Errors
    /// The invoke returns [`Error::Invalid`] if the slot is shorter than a millisecond or longer
    /// than 1000 years, or if it is combined with [`debounce`](Self::debounce).
    pub fn throttle(self, slot: Duration) -> Self {
        self.with(|invocation| invocation.throttle(slot))
    }

    /// Runs once no call has come for this long, with the last call's payload.
    ///
    /// Until the execution has started, each call moves its time and replaces its payload; its id
    /// stays. The next call after that creates a new execution, so the last payload always runs.
    /// Calls are counted per task, or per key if there is a [`dedupe_key`](Self::dedupe_key). These
    /// keys are separate from those of calls without `debounce`. Calls that never pause delay the
    /// execution indefinitely, unless [`max_wait`](Self::max_wait) sets a bound.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # use std::time::Duration;
    /// # #[task] async fn reindex(ctx: &TaskContext, page: i64) -> anyhow::Result<()> { Ok(()) }
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// // After every keystroke; the index is written two seconds after the last one.
    /// conductor
    ///     .invoke::<Reindex>(Reindex { page: 7 })
    ///     .dedupe_key("page-7")
    ///     .debounce(Duration::from_secs(2))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The invoke returns [`Error::Invalid`] if the interval is shorter than a millisecond or
    /// longer than 1000 years, or if it is combined with [`throttle`](Self::throttle),
    /// [`run_at`](Self::run_at) or [`delay`](Self::delay).
    pub fn debounce(self, quiet: Duration) -> Self {
        self.with(|invocation| invocation.debounce(quiet))
    }

    /// Bounds a [`debounce`](Self::debounce).
    ///
    /// The execution is due at most this long after the first call that it stands for, with the
    /// newest payload.
    ///
    /// The newest call decides: one without `max_wait` removes the bound.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # use std::time::Duration;
    /// # #[task] async fn reindex(ctx: &TaskContext, page: i64) -> anyhow::Result<()> { Ok(()) }
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// // Two seconds after the last keystroke, or a minute after the first one.
    /// conductor
    ///     .invoke::<Reindex>(Reindex { page: 7 })
    ///     .dedupe_key("page-7")
    ///     .debounce(Duration::from_secs(2))
    ///     .max_wait(Duration::from_secs(60))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The invoke returns [`Error::Invalid`] if `debounce` is missing, if the bound is shorter than
    /// it, or if the bound is longer than 1000 years.
    pub fn max_wait(self, most: Duration) -> Self {
        self.with(|invocation| invocation.max_wait(most))
    }

    /// Invokes within the caller's transaction: the execution commits or rolls back with it.
    ///
    /// Until the commit, no other connection sees the execution and no worker runs it.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # #[task] async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<()> { Ok(()) }
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// let mut tx = conductor.pool().begin().await?;
    /// sqlx::query("insert into users (name) values ('Alice')").execute(&mut *tx).await?;
    /// conductor.invoke::<Greet>(Greet { name: "Alice".into() }).in_transaction(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_transaction<'t>(self, connection: &'t mut PgConnection) -> InvokeInTransaction<'t, T>
    where
        'c: 't,
    {
        InvokeInTransaction {
            invoke: self,
            connection,
        }
    }

    fn with(mut self, change: impl FnOnce(Invocation<T>) -> Invocation<T>) -> Self {
        self.invocation = change(self.invocation);
        self
    }
}

impl<'c, T: Task> IntoFuture for Invoke<'c, T> {
    type Output = Result<Execution<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = self
                .conductor
                .insert(self.invocation.new?.complete()?)
                .await?;
            Ok(Execution::invoked(self.conductor.clone(), answer))
        })
    }
}

impl<'t, T: Task> IntoFuture for InvokeInTransaction<'t, T> {
    type Output = Result<Execution<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 't>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let new = self.invoke.invocation.new?.complete()?;
            let conductor = self.invoke.conductor;
            // On another connection, because a failed statement would abort the caller's
            // transaction.
            conductor.ensure_declared(&new.task).await?;
            let answers = insert(self.connection, std::slice::from_ref(&new), true, false).await?;
            let answer = answers.first().copied().unwrap_or(Answer::created(new.id));
            Ok(Execution::invoked(conductor.clone(), answer))
        })
    }
}

impl Conductor {
    async fn insert(&self, new: NewExecution) -> Result<Answer> {
        self.ensure_declared(&new.task).await?;
        self.inserter().insert(new).await
    }
}

impl Untyped<'_> {
    /// Invokes a task by name with a payload that is already JSON.
    ///
    /// # Errors
    /// - [`Error::UnknownTask`] if neither this binary nor the database knows the task.
    /// - [`Error::Payload`] if the payload cannot be stored, or does not fit a task of this binary.
    ///   Payloads of other programs' tasks are checked only when they run.
    pub async fn invoke(self, task: &str, payload: &str) -> Result<Uuid> {
        Ok(self
            .conductor
            .insert(checked(self.conductor.registry(), task, payload)?)
            .await?
            .id)
    }
}

pub(super) fn checked(registry: &Registry, task: &str, payload: &str) -> Result<NewExecution> {
    let refuse = |reason: String| Error::Payload {
        task: task.to_owned(),
        reason,
    };
    // First, because its message tells more about size and depth than a parser that gives up.
    codec::check_storable(payload).map_err(refuse)?;
    match registry.get(task) {
        Some(definition) => definition.check_given(payload),
        None => read::<serde::de::IgnoredAny>(payload)
            .map(drop)
            .map_err(Into::into),
    }
    .map_err(refuse)?;
    Ok(NewExecution::encoded(task, payload.to_owned()))
}
