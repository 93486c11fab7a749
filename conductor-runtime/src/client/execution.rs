use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use conductor_postgres::store::executions;
use conductor_postgres::{OUTAGE, RetryBudget};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::insert::Answer;
use super::{Conductor, Invoked, Untyped};
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::task::Task;
use crate::unreadable::read;

/// How often the result is read if no notification arrives.
const POLL: Duration = Duration::from_secs(1);
/// An execution younger than this may be running in a worker of this process; its end is then awaited here first,
/// without a query.
const AT_HAND: Duration = Duration::from_millis(10);

/// The state of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Due now or later.
    Pending,
    /// Claimed by a worker.
    Running,
    /// Waiting for a time, a child, an event or a row change.
    Suspended,
    /// Ended with an output.
    Completed,
    /// Ended with an error, and no further attempt follows.
    Failed,
    /// Ended by a cancel.
    Cancelled,
}

impl Status {
    /// Returns whether the state is final. A final state never changes.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }

    /// Returns the name that the database uses, such as `pending`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Suspended => "suspended",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// All states, in the order in which an execution can pass through them.
    pub const ALL: [Status; 6] = [
        Status::Pending,
        Status::Running,
        Status::Suspended,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
    ];
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Status {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Status::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                let known = Status::ALL.map(Status::as_str).join(", ");
                Error::Invalid(format!("{text:?} is no state; the states are {known}"))
            })
    }
}

/// A handle to one execution of `T`.
///
/// Holding it costs nothing, and dropping it does not affect the execution.
pub struct Execution<T: Task> {
    conductor: Conductor,
    answer: Answer,
    task: PhantomData<fn() -> T>,
}

impl<T: Task> Execution<T> {
    pub(super) fn invoked(conductor: Conductor, answer: Answer) -> Self {
        Self {
            conductor,
            answer,
            task: PhantomData,
        }
    }

    /// Returns the execution's id.
    pub fn id(&self) -> Uuid {
        self.answer.id
    }

    /// Returns the effect of the invoke that returned this handle.
    ///
    /// For a handle from [`Conductor::execution`] it is [`Invoked::Existing`].
    pub fn came_of(&self) -> Invoked {
        self.answer.came_of
    }

    /// Returns the current state.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the execution is unknown or retention has removed it.
    pub async fn status(&self) -> Result<Status> {
        match self.conductor.inspect().find(self.id()).await? {
            Some(info) => Ok(info.state),
            None => Err(Error::NotFound(self.id())),
        }
    }

    /// Waits until the execution ends, and returns its output.
    ///
    /// Waits indefinitely if no worker has the task. Waiting uses notifications, with a query each second in case one
    /// is lost. Waits through an outage of the database of about 30 s.
    ///
    /// # Errors
    /// - [`Error::Failed`] with the last attempt's error.
    /// - [`Error::Cancelled`] with its reason.
    /// - [`Error::NotFound`] if the execution is unknown or retention has removed it.
    /// - [`Error::Output`] if the stored output does not fit this binary's type.
    /// - [`Error::Unavailable`] if the database does not return.
    pub async fn result(&self) -> Result<T::Output> {
        self.conductor.own_end(T::NAME, self.id()).await;
        let output = self.conductor.untyped().outcome(self.id()).await?;
        read(&output).map_err(|refusal| Error::Output {
            task: T::NAME.to_owned(),
            reason: refusal.to_string(),
        })
    }
}

impl<T: Task> Execution<T> {
    /// Returns the failure, with code and details, if the execution has failed. Does not wait.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # #[task]
    /// # async fn pay(ctx: &TaskContext) -> anyhow::Result<u64> { Ok(1) }
    /// # async fn shown(run: conductor::Execution<Pay>) -> conductor::Result<()> {
    /// if let Err(error) = run.result().await {
    ///     match run.failure().await? {
    ///         Some(failure) if failure.code() == Some("declined") => println!("another card, please"),
    ///         _ => return Err(error),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] if the execution is unknown or retention has removed it.
    pub async fn failure(&self) -> Result<Option<Failure>> {
        let info = self.conductor.inspect().find(self.id()).await?;
        let info = info.ok_or(Error::NotFound(self.id()))?;
        let text = info.error.unwrap_or_default();
        let end = info.failure.as_deref().map(RawValue::get);
        Ok((info.state == Status::Failed).then(|| Failure::from_end(&text, end)))
    }
}

impl<T: Task> Clone for Execution<T> {
    fn clone(&self) -> Self {
        Self::invoked(self.conductor.clone(), self.answer)
    }
}

impl<T: Task> fmt::Debug for Execution<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("task", &T::NAME)
            .field("id", &self.id())
            .finish()
    }
}

impl Conductor {
    /// Waits a moment for this process to write the end of an execution that it has just invoked. A query at this
    /// point would mark the row as watched, and that update would lock the row; a claim skips locked rows.
    async fn own_end(&self, task: &str, id: Uuid) {
        let ends = self.notifier().ends();
        let Some(left) = AT_HAND.checked_sub(age(id)) else {
            return;
        };
        if ends.is_served(task) {
            let end = ends.of(id);
            let ended = end.notified();
            if !ends.has_just_ended(id) {
                let _ = tokio::time::timeout(left, ended).await;
            }
        }
    }
}

impl Untyped<'_> {
    /// Waits until any execution ends, and returns its output as JSON.
    ///
    /// # Errors
    /// Those of [`Execution::result`], except [`Error::Output`].
    pub async fn outcome(self, id: Uuid) -> Result<String> {
        self.conductor.migrate().await?;
        let end = self.conductor.notifier().ends().of(id);
        let mut budget = RetryBudget::new(OUTAGE);
        loop {
            // Subscribed before the query, so that an end between query and wait is not missed.
            let ended = end.notified();
            // The task that listens for ends may have stopped.
            self.conductor
                .notifier()
                .start_for_ends(self.conductor.database())
                .await;
            let seen = match executions::watch(self.conductor.database(), &budget, id).await {
                Ok(seen) => seen,
                Err(error) if budget.may_retry(&error).await => continue,
                Err(error) => return Err(budget.over(error).into()),
            };
            let seen = seen.ok_or(Error::NotFound(id))?;
            budget = RetryBudget::new(OUTAGE);
            match seen.state.parse()? {
                Status::Completed => return Ok(seen.output.unwrap_or_else(|| "null".to_owned())),
                Status::Failed => {
                    return Err(Error::Failed {
                        id,
                        task: seen.task,
                        error: seen.error.unwrap_or_default(),
                    });
                }
                Status::Cancelled => {
                    return Err(Error::Cancelled {
                        id,
                        task: seen.task,
                        reason: seen.error,
                    });
                }
                Status::Pending | Status::Running | Status::Suspended => {}
            }
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

/// Returns the time since the id was made, by this machine's clock; `Duration::MAX` if the id has no usable
/// timestamp.
fn age(id: Uuid) -> Duration {
    let made = id.get_timestamp().map(|made| made.to_unix());
    let made =
        made.and_then(|(seconds, nanos)| UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)));
    made.and_then(|made| made.elapsed().ok())
        .unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_age() {
        assert!(age(Uuid::now_v7()) < Duration::from_secs(1));
        assert_eq!(age(Uuid::nil()), Duration::MAX);
        assert_eq!(age(Uuid::max()), Duration::MAX, "made in the future");
    }
}
