use std::fmt;

use chrono::{DateTime, Utc};
use conductor_schedule::{Window, zone};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Conductor, Status};
use crate::error::{Error, Result};

/// Why an execution does not run, or that it does. It reads as a sentence; its JSON is what
/// `conductor.why_not_running` gives in SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Why {
    /// In plain words.
    pub text: String,
    /// For programs.
    #[serde(flatten)]
    pub reason: Reason,
}

/// The one thing to look at first; another may come after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It was invoked for a later time.
    Later {
        /// When it is due.
        run_at: Option<DateTime<Utc>>,
    },
    /// Its task runs within a window only.
    Window {
        /// When it opens.
        opens_at: DateTime<Utc>,
    },
    /// Its schedule's ticks must not overlap, and one that came before it has not ended.
    TickBefore {
        /// The execution of the first of those ticks; it is the one that runs.
        execution: Uuid,
        /// How many are before it, counted up to 1000.
        before: u32,
    },
    /// An attempt has failed, and the next one is later.
    Retry {
        /// Which one that will be, of those that count: a crash of the process does not.
        attempt: i32,
        /// How many there may be.
        max_attempts: i32,
        /// When it is due.
        run_at: DateTime<Utc>,
        /// How the last one failed; at most 1000 characters.
        error: Option<String>,
    },
    /// No build that has tried can read its payload, or something of its records. It waits for one that can,
    /// and nothing is charged.
    Unreadable {
        /// What, and why; with the field where that is known.
        error: String,
        /// Since when.
        since: DateTime<Utc>,
        /// How often it was tried.
        times: i32,
        /// The process that tried last.
        reader: String,
        /// When it is tried next, unless a process with its task starts before.
        run_at: DateTime<Utc>,
    },
    /// It is suspended.
    Waits {
        /// What it waits for, the first ten by key.
        waits: Vec<Awaited>,
        /// How many there are, counted up to 1000.
        count: u32,
    },
    /// Somebody has paused its queue.
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
    /// As many run as a concurrency limit allows.
    Limit {
        /// How many may.
        amount: i32,
        /// How many slots are taken.
        held: i32,
        /// For which key; none where the limit is the whole task's.
        key: Option<LimitKey>,
        /// Executions that have a slot or were claimed to have one next, up to ten.
        executions: Vec<Uuid>,
    },
    /// Its task is ordered, and another one of its key has not ended.
    Turn {
        /// The one that has its turn.
        execution: Uuid,
        /// How many were invoked before it and have not ended, counted up to 1000.
        before: u32,
        /// The key.
        key: LimitKey,
    },
    /// A rate limit lets the next one start later.
    Rate {
        /// So many may start …
        amount: i32,
        /// … in so many milliseconds.
        per_ms: u64,
        /// … and so many at once after a rest.
        burst: i32,
        /// For which key; none where the limit is the whole task's.
        key: Option<LimitKey>,
        /// The next start, of this one or of one before it.
        next_at: DateTime<Utc>,
        /// How many are before it, counted up to 1000.
        before: u32,
    },
    /// It is due, and nothing keeps it.
    Soon {
        /// How many are before it in its queue, counted up to 1000.
        before: u32,
    },
    /// A worker has it: it runs, or is about to.
    Running {
        /// Since when.
        since: DateTime<Utc>,
        /// The process's number in `conductor.orchestrators`.
        orchestrator: i64,
        /// The process's host, as it knows it; may be empty.
        host: String,
        /// The process's number there.
        pid: i32,
    },
    /// The process that had it is dead or cut off; a living worker will take the execution back.
    LeaseOver {
        /// When that process claimed it.
        since: DateTime<Utc>,
        /// The process's number in `conductor.orchestrators`.
        orchestrator: Option<i64>,
        /// The process's host; none where it was buried already.
        host: Option<String>,
        /// The process's number there.
        pid: Option<i32>,
    },
    /// It has ended.
    Done {
        /// How.
        state: Status,
        /// When.
        finished_at: DateTime<Utc>,
        /// The last failure's text, or the reason of a cancel; at most 1000 characters.
        error: Option<String>,
    },
    /// No execution has this id; finished ones are removed after the task's `keep`.
    Unknown,
}

/// A thing that a suspended execution waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Awaited {
    /// The key of the wait.
    pub key: String,
    /// `sleep`, `invoke`, `event` …
    pub kind: String,
    /// The end of a sleep, or the deadline of a child or an event.
    pub wake_at: Option<DateTime<Utc>>,
    /// The child.
    pub child: Option<Uuid>,
    /// The child's task.
    pub task: Option<String>,
    /// The child's state.
    pub state: Option<Status>,
    /// The event's name.
    #[serde(default)]
    pub event: Option<String>,
}

/// The part of the payload by which a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LimitKey {
    /// The field, such as `tenant.id`.
    pub field: String,
    /// Its value in this payload, as text; at most 1000 characters.
    pub value: String,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Conductor {
    /// Why an execution does not run, or that it does. Looks by index only, so that it is quick
    /// beside any backlog.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # async fn f(conductor: Conductor, id: uuid::Uuid) -> anyhow::Result<()> {
    /// let why = conductor.why(id).await?;
    /// println!("{why}"); // the queue "fast" is paused
    /// if let conductor::Reason::Limit { executions, .. } = why.reason {
    ///     println!("it waits for {executions:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn why(&self, id: Uuid) -> Result<Why> {
        self.migrate().await?;
        let mut session = self.database().session().await?;
        let why = why(&mut *session, id).await;
        session.settle(why).await
    }
}

pub(super) async fn why(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Why> {
    let found: Value = sqlx::query_scalar("select conductor.why_not_running($1)")
        .bind(id)
        .fetch_one(executor)
        .await?;
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

/// The task's window, which the database cannot read, and the time.
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
