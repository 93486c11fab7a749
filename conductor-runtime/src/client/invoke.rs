use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::insert::{NewExecution, insert};
use super::{Conductor, Execution};
use crate::codec;
use crate::error::{Error, Result, too_long};
use crate::registry::Registry;
use crate::task::{PointInTime, Task};

/// An invoke that is being said; `.await` makes the execution.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct Invoke<'c, T: Task> {
    conductor: &'c Conductor,
    new: Result<NewExecution>,
    task: PhantomData<fn() -> T>,
}

/// An [`Invoke`] within the caller's transaction.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeInTransaction<'t, T: Task> {
    invoke: Invoke<'t, T>,
    connection: &'t mut PgConnection,
}

impl NewExecution {
    pub(super) fn of<T: Task>(payload: &T::Payload) -> Result<Self> {
        Ok(Self::encoded(T::NAME, codec::encode_payload::<T>(payload)?))
    }

    fn encoded(task: &str, payload: String) -> Self {
        Self {
            id: Uuid::now_v7(),
            task: task.to_owned(),
            payload,
            run_at: None,
            delay_ms: None,
            priority: None,
        }
    }

    pub(super) fn set_run_at(&mut self, at: DateTime<Utc>) -> Result<()> {
        if !(1..=9999).contains(&at.year()) {
            return Err(Error::Invalid(format!(
                "run_at {at} lies outside the years 1 to 9999"
            )));
        }
        self.run_at = Some(at);
        Ok(())
    }

    pub(super) fn set_delay(&mut self, delay: Duration) -> Result<()> {
        if let Some(error) = too_long(delay) {
            return Err(error);
        }
        self.delay_ms = Some(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl<'c, T: Task> Invoke<'c, T> {
    pub(super) fn new(conductor: &'c Conductor, payload: T::Payload) -> Self {
        Self {
            conductor,
            new: NewExecution::of::<T>(&payload),
            task: PhantomData,
        }
    }

    /// Not before this instant, by the database's clock. A past one means now.
    pub fn run_at(mut self, at: impl PointInTime) -> Self {
        let at = at.utc();
        self.set(|new| new.set_run_at(at));
        self
    }

    /// Not before this long from now, by the database's clock.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.set(|new| new.set_delay(delay));
        self
    }

    /// Instead of the task's own priority; higher is claimed first.
    pub fn priority(mut self, priority: i32) -> Self {
        self.set(|new| {
            new.priority = Some(priority);
            Ok(())
        });
        self
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

    fn set(&mut self, change: impl FnOnce(&mut NewExecution) -> Result<()>) {
        if let Ok(new) = &mut self.new
            && let Err(error) = change(new)
        {
            self.new = Err(error);
        }
    }
}

impl<'c, T: Task> IntoFuture for Invoke<'c, T> {
    type Output = Result<Execution<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let id = self.conductor.insert(self.new?).await?;
            Ok(Execution::new(self.conductor.clone(), id))
        })
    }
}

impl<'t, T: Task> IntoFuture for InvokeInTransaction<'t, T> {
    type Output = Result<Execution<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 't>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let new = self.invoke.new?;
            let conductor = self.invoke.conductor;
            // On another connection, as a refused statement would end the caller's transaction.
            conductor.ensure_declared(&new.task).await?;
            insert(self.connection, std::slice::from_ref(&new), true, false).await?;
            Ok(Execution::new(conductor.clone(), new.id))
        })
    }
}

impl Conductor {
    async fn insert(&self, new: NewExecution) -> Result<Uuid> {
        self.ensure_declared(&new.task).await?;
        let id = new.id;
        self.inserter().insert(new).await?;
        Ok(id)
    }

    /// Invokes a task by its name with a payload that is JSON already, as the command line does.
    ///
    /// # Errors
    /// The name is unknown to this binary and to the database, or the payload does not fit a task
    /// of this binary. Tasks of other programs check their payloads themselves, when they run.
    pub async fn invoke_json(&self, task: &str, payload: &str) -> Result<Uuid> {
        self.insert(checked(task, payload)?).await
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
        Some(definition) => definition.check_payload(payload),
        None => serde_json::from_str::<serde::de::IgnoredAny>(payload).map(drop),
    }
    .map_err(|error| refuse(error.to_string()))?;
    Ok(NewExecution::encoded(task, payload.to_owned()))
}
