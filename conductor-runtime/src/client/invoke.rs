use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::insert::{Answer, insert};
use super::invocation::{Invocation, NewExecution};
use super::{Conductor, Execution};
use crate::codec;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::task::{PointInTime, Task};
use crate::unreadable::read;

/// An invoke that is being said; `.await` makes the execution.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct Invoke<'c, T: Task> {
    conductor: &'c Conductor,
    invocation: Invocation<T>,
}

/// An [`Invoke`] within the caller's transaction.
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

    /// Not before this instant, by the database's clock. A past one means now.
    pub fn run_at(self, at: impl PointInTime) -> Self {
        self.with(|invocation| invocation.run_at(at))
    }

    /// Not before this long from now, by the database's clock.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|invocation| invocation.delay(delay))
    }

    /// Instead of the task's own priority; higher is claimed first.
    pub fn priority(self, priority: i32) -> Self {
        self.with(|invocation| invocation.priority(priority))
    }

    /// The task has one execution of this key (1 to 200 bytes) at a time.
    ///
    /// While it has not started, a call replaces its payload, and its time and priority where the
    /// call says them; the id stays. From its first claim to its end (while it runs, sleeps, or
    /// waits for its next attempt) it is left as it is and returned. Once it has ended, the next
    /// call makes a new one. [`Execution::came_of`] tells which it was.
    ///
    /// Calls with one key, from whichever process, happen one after the other: one waits for the
    /// transaction of another that has the key. `retry` repeats what has ended without its key.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # #[task] async fn sync(ctx: &TaskContext, user: i64, version: u32) -> anyhow::Result<()> { Ok(()) }
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// let first = conductor.invoke::<Sync>(Sync { user: 7, version: 1 }).dedupe_key("user-7").await?;
    /// let again = conductor.invoke::<Sync>(Sync { user: 7, version: 2 }).dedupe_key("user-7").await?;
    /// // Where no worker was quicker, there is one execution, of version 2.
    /// println!("{}: {}, then {}", first.id() == again.id(), first.came_of(), again.came_of());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A key that is empty, longer than 200 bytes, or that has the character U+0000.
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        self.with(|invocation| invocation.dedupe_key(key))
    }

    /// At most one execution in this long, by the database's clock: the first call makes it, the
    /// others in its slot get its handle, whatever has become of it; their payloads are dropped.
    ///
    /// The slot is the task's, or with a [`dedupe_key`](Self::dedupe_key) the key's, and lasts from
    /// the call that made the execution. The call after it does as the key says: where the
    /// execution has not started even then, its payload is replaced and a new slot begins; where
    /// it has not ended, it is returned and the next call asks again.
    ///
    /// # Errors
    /// Less than a millisecond, more than 1000 years, or together with
    /// [`debounce`](Self::debounce).
    pub fn throttle(self, slot: Duration) -> Self {
        self.with(|invocation| invocation.throttle(slot))
    }

    /// Runs once the calls have been quiet for this long, by the database's clock, with the last
    /// call's payload.
    ///
    /// Each call moves the execution, which keeps its id, until it has started; the next call then
    /// makes a new one, so the last payload always runs. Calls are counted together by task, or
    /// with a [`dedupe_key`](Self::dedupe_key) by key; calls of the same key without `debounce` have
    /// nothing to do with them. Calls that never pause put it off without end, unless
    /// [`max_wait`](Self::max_wait) bounds that.
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
    /// Less than a millisecond, more than 1000 years, or together with
    /// [`throttle`](Self::throttle), [`run_at`](Self::run_at) or [`delay`](Self::delay).
    pub fn debounce(self, quiet: Duration) -> Self {
        self.with(|invocation| invocation.debounce(quiet))
    }

    /// Bounds a [`debounce`](Self::debounce): the execution is due at the latest so long after the first of the
    /// calls that it stands for, with the newest payload. The newest call decides about the bound, too.
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
    /// Without `debounce`, shorter than it, or more than 1000 years.
    pub fn max_wait(self, most: Duration) -> Self {
        self.with(|invocation| invocation.max_wait(most))
    }

    /// Commits or vanishes with the caller's transaction. Nobody sees the execution before.
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
            // On another connection, as a refused statement would end the caller's transaction.
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

    /// Invokes a task by its name with a payload that is JSON already, as the command line does.
    ///
    /// # Errors
    /// The name is unknown to this binary and to the database, or the payload does not fit a task
    /// of this binary. Tasks of other programs check their payloads themselves, when they run.
    pub async fn invoke_json(&self, task: &str, payload: &str) -> Result<Uuid> {
        Ok(self.insert(checked(task, payload)?).await?.id)
    }
}

pub(super) fn checked(task: &str, payload: &str) -> Result<NewExecution> {
    let refuse = |reason: String| Error::Payload {
        task: task.to_owned(),
        reason,
    };
    // First, as it also says more of size and depth than a parser that gives up.
    codec::check_storable(payload).map_err(refuse)?;
    match Registry::global().get(task) {
        Some(definition) => definition.check_given(payload),
        None => read::<serde::de::IgnoredAny>(payload)
            .map(drop)
            .map_err(Into::into),
    }
    .map_err(refuse)?;
    Ok(NewExecution::encoded(task, payload.to_owned()))
}
