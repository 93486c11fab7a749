use std::fmt;

use chrono::{DateTime, Utc};
use conductor_postgres::store::executions;
use conductor_schedule::{Window, zone};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Inspect, Status};
use crate::error::{Error, Result};

/// Why an execution does not run, or that it does.
///
/// `Display` prints it as a sentence; its JSON is what `conductor.why_not_running` returns in SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Why {
    /// The reason as a sentence.
    pub text: String,
    /// The reason as data.
    #[serde(flatten)]
    pub reason: Reason,
}

/// The reason why an execution does not run. If there are several, the first one to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It was invoked for a later time.
    Later {
        /// When it is due.
        run_at: Option<DateTime<Utc>>,
    },
    /// Its task runs only within a window, which is closed.
    Window {
        /// When the window opens.
        opens_at: DateTime<Utc>,
    },
    /// Its schedule's ticks must not overlap, and the execution of an earlier tick has not ended.
    TickBefore {
        /// The execution of the first of those ticks, which is the one that may run.
        execution: Uuid,
        /// How many are before it, counted up to 1000.
        before: u32,
    },
    /// An attempt has failed, and the next one is due later.
    Retry {
        /// The number of the next attempt, among those that count. A crash of the process does not
        /// count.
        attempt: i32,
        /// The maximum number of attempts.
        max_attempts: i32,
        /// When it is due.
        run_at: DateTime<Utc>,
        /// The text of the last failure; at most 1000 characters.
        error: Option<String>,
    },
    /// No build that has tried can read its payload or one of its records. It waits for one that
    /// can, and no attempt is counted.
    Unreadable {
        /// What cannot be read and why, with the field if it is known.
        error: String,
        /// Since when it waits.
        since: DateTime<Utc>,
        /// How many times a build has tried.
        times: i32,
        /// The process that tried last.
        reader: String,
        /// When it is tried next, unless a process with its task starts before.
        run_at: DateTime<Utc>,
    },
    /// It is suspended.
    Waits {
        /// What it waits for; the first ten by key.
        waits: Vec<Awaited>,
        /// How many waits there are, counted up to 1000.
        count: u32,
    },
    /// Its queue is paused.
    Paused {
        /// The queue.
        queue: String,
    },
    /// No living process has the task and serves its queue.
    NoWorker {
        /// The task.
        task: String,
        /// The queue.
        queue: String,
    },
    /// A concurrency limit is reached.
    Limit {
        /// The limit.
        amount: i32,
        /// How many slots are taken.
        held: i32,
        /// The key of the limit; `None` if the limit is for the whole task.
        key: Option<LimitKey>,
        /// Up to ten executions that hold a slot, or that were claimed to get the next one.
        executions: Vec<Uuid>,
    },
    /// Its task is ordered, and an earlier execution of its key has not ended.
    Turn {
        /// The execution whose turn it is.
        execution: Uuid,
        /// How many earlier ones have not ended, counted up to 1000.
        before: u32,
        /// The key.
        key: LimitKey,
    },
    /// A rate limit delays its start.
    Rate {
        /// At most this many starts …
        amount: i32,
        /// … in this many milliseconds …
        per_ms: u64,
        /// … and this many at once after a pause.
        burst: i32,
        /// The key of the limit; `None` if the limit is for the whole task.
        key: Option<LimitKey>,
        /// When the next start is allowed, of this execution or of one before it.
        next_at: DateTime<Utc>,
        /// How many are before it, counted up to 1000.
        before: u32,
    },
    /// It is due and nothing delays it.
    Soon {
        /// How many are before it in its queue, counted up to 1000.
        before: u32,
    },
    /// A worker has claimed it: it runs or is about to start.
    Running {
        /// Since when.
        since: DateTime<Utc>,
        /// The process's id in `conductor.orchestrators`.
        orchestrator: i64,
        /// The process's host name, as the process reports it; may be empty.
        host: String,
        /// The process id on that host.
        pid: i32,
    },
    /// The lease of its process has expired. A living worker will take the execution back.
    LeaseOver {
        /// When that process claimed it.
        since: DateTime<Utc>,
        /// The process's id in `conductor.orchestrators`.
        orchestrator: Option<i64>,
        /// The process's host name; `None` if its row was already removed.
        host: Option<String>,
        /// The process id on that host.
        pid: Option<i32>,
    },
    /// It has ended.
    Done {
        /// Its final state.
        state: Status,
        /// When it ended.
        finished_at: DateTime<Utc>,
        /// The last failure's text, or the reason of a cancel; at most 1000 characters.
        error: Option<String>,
    },
    /// No execution has this id. Finished ones are removed after the task's `keep`.
    Unknown,
}

/// One of the things that a suspended execution waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Awaited {
    /// The key of the wait.
    pub key: String,
    /// `sleep`, `invoke`, `event` …
    pub kind: String,
    /// The end of a sleep, or the deadline of a child, an event or a row change.
    pub wake_at: Option<DateTime<Utc>>,
    /// The child's id.
    pub child: Option<Uuid>,
    /// The child's task.
    pub task: Option<String>,
    /// The child's state.
    pub state: Option<Status>,
    /// The event's name.
    #[serde(default)]
    pub event: Option<String>,
}

/// The part of the payload that a limit or an order uses as key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LimitKey {
    /// The path of the field, such as `tenant.id`.
    pub field: String,
    /// Its value in this payload, as text; at most 1000 characters.
    pub value: String,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Inspect<'_> {
    /// Returns why an execution does not run, or that it does.
    ///
    /// Reads only by index, so it is fast however large the backlog is.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # async fn f(conductor: Conductor, id: uuid::Uuid) -> anyhow::Result<()> {
    /// let why = conductor.inspect().why(id).await?;
    /// println!("{why}"); // the queue "fast" is paused
    /// if let conductor::inspect::Reason::Limit { executions, .. } = why.reason {
    ///     println!("it waits for {executions:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn why(self, id: Uuid) -> Result<Why> {
        self.conductor.migrate().await?;
        let mut session = self.conductor.database().session().await?;
        let why = why(&mut session, id).await;
        session.settle(why).await
    }
}

pub(super) async fn why(connection: &mut PgConnection, id: Uuid) -> Result<Why> {
    let found = executions::why_not_running(connection, id).await?;
    let beside = Beside::deserialize(&found).ok();
    let why = Why::deserialize(found).map_err(|error| Error::Schema(error.to_string()))?;
    Ok(match beside.and_then(|beside| beside.closed_until()) {
        Some(opens_at) => Why {
            text: format!(
                "waits for its window, which opens at {}",
                opens_at.format("%Y-%m-%d %H:%M:%S UTC")
            ),
            reason: Reason::Window { opens_at },
        },
        None => why,
    })
}

/// The task's window, which SQL cannot evaluate, and the database's time.
#[derive(Debug, Deserialize)]
struct Beside {
    window: Hours,
    now: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Hours {
    hours: String,
    days: Option<String>,
    timezone: String,
}

impl Beside {
    fn closed_until(&self) -> Option<DateTime<Utc>> {
        let zone = zone(&self.window.timezone).ok()?;
        let window = Window::parse(&self.window.hours, self.window.days.as_deref(), zone).ok()?;
        (!window.is_open(self.now)).then(|| window.opens_after(self.now))
    }
}
