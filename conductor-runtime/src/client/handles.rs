//! The calls of [`Conductor`] that are grouped by purpose.

use super::Conductor;

/// The schedules of a database; returned by [`Conductor::schedules`].
///
/// `.await` lists all of them, as [`list`](Self::list) does. [`Conductor::schedule`] and
/// [`Conductor::unschedule`] create and remove dynamic ones.
///
/// ```no_run
/// # use conductor::prelude::*;
/// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
/// for schedule in conductor.schedules().await? {
///     println!("{} of {}: {}", schedule.name, schedule.task, schedule.cron);
/// }
/// conductor.schedules().pause("report", "daily-reports").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Schedules<'c> {
    pub(crate) conductor: &'c Conductor,
}

/// The queues of a database; returned by [`Conductor::queues`].
///
/// `.await` lists all of them, as [`list`](Self::list) does.
#[derive(Debug, Clone, Copy)]
pub struct Queues<'c> {
    pub(crate) conductor: &'c Conductor,
}

/// Reads what the database knows, and changes nothing; returned by [`Conductor::inspect`].
///
/// ```no_run
/// # use conductor::prelude::*;
/// use conductor::inspect::{Filter, Status};
///
/// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
/// let failed = Filter { state: Some(Status::Failed), ..Filter::default() };
/// for info in conductor.inspect().list(&failed).await? {
///     println!("{}: {}", info.id, info.error.unwrap_or_default());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Inspect<'c> {
    pub(crate) conductor: &'c Conductor,
}

/// Calls by name, with payloads that are already JSON; returned by [`Conductor::untyped`].
///
/// They are for programs that do not have the tasks' code. Payloads of tasks that this program has
/// are checked against their types.
///
/// ```no_run
/// # use conductor::prelude::*;
/// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
/// let id = conductor.untyped().invoke("greet", r#"{"name": "Alice"}"#).await?;
/// let output: String = conductor.untyped().outcome(id).await?; // "\"Hello, Alice!\""
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Untyped<'c> {
    pub(crate) conductor: &'c Conductor,
}

impl Conductor {
    /// Returns the calls that list, pause, resume and trigger schedules.
    pub fn schedules(&self) -> Schedules<'_> {
        Schedules { conductor: self }
    }

    /// Returns the calls that list, pause and resume queues.
    pub fn queues(&self) -> Queues<'_> {
        Queues { conductor: self }
    }

    /// Returns the calls that read executions, events and triggers.
    pub fn inspect(&self) -> Inspect<'_> {
        Inspect { conductor: self }
    }

    /// Returns the calls that name a task or an event, and take its payload as JSON.
    pub fn untyped(&self) -> Untyped<'_> {
        Untyped { conductor: self }
    }
}
