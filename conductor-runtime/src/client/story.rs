use chrono::{DateTime, TimeDelta, Utc};
use conductor_postgres::store::{details, steps};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use uuid::Uuid;

use super::children::{Brief, Child, briefs, children};
use super::query::{self, ExecutionInfo, FailedAttempt, raw};
use super::step_key::StepKey;
use super::why::{Why, why};
use super::{Inspect, Status};
use crate::context::NEW_INPUT;
use crate::error::Result;

/// The largest value of a record that is shown, and the most that all values of a story take, in bytes.
const MOST_SHOWN: i32 = 1024 * 1024;
const MOST_SHOWN_TOGETHER: i64 = 32 * 1024 * 1024;

/// Everything that the database knows about one execution, as of one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Story {
    /// The execution itself.
    pub info: ExecutionInfo,
    /// The moment, by the database's clock.
    pub now: DateTime<Utc>,
    /// Why it does not run, or that it runs.
    pub why: Why,
    /// Whether a living process serves the task.
    pub served: bool,
    /// The number of attempts after which a failure is final.
    pub max_attempts: i32,
    /// The time limit of one attempt.
    #[serde(rename = "timeout_ms", serialize_with = "optional_millis")]
    pub timeout: Option<TimeDelta>,
    /// Whether it was cancelled, or its cancel was requested.
    pub cancelled: bool,
    /// The reason of the cancel, if one was given.
    pub cancel_reason: Option<String>,
    /// Set if its keys seem to change from run to run.
    pub astray: Option<Astray>,
    /// The key of the first call that a run gave something else than the run that recorded it. Such a handler does not
    /// do the same in each run.
    pub new_input: Option<String>,
    /// The process that has claimed it.
    pub runner: Option<Runner>,
    /// The execution that invoked it with `ctx.invoke`.
    pub parent: Option<Parent>,
    /// The failed attempts, the first one first.
    pub failures: Vec<FailedAttempt>,
    /// Its recorded steps, in the order of recording.
    pub steps: Vec<StepInfo>,
    /// Its sleeps, including those that are over, and everything that it waits for.
    pub waits: Vec<WaitInfo>,
    /// Its children, ordered by id.
    pub children: Vec<Child>,
}

/// Consecutive runs whose keys have probably changed.
///
/// They asked for nothing of what they had waited for, and waited for something new. Such an execution fails in the
/// end.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Astray {
    /// The number of such runs in a row.
    pub runs: i32,
    /// The key of a wait that ended and that the last run did not ask for.
    pub key: String,
}

/// The process that has claimed an execution.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Runner {
    /// Its id in `conductor.orchestrators`.
    pub orchestrator: i64,
    /// The process; `None` if its row was removed.
    pub process: Option<Process>,
}

/// A process that runs workers.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Its host name, as the process reports it; may be empty.
    pub host: String,
    /// Its process id on that host.
    pub pid: i32,
    /// How long its lease still lasts; negative if it has expired.
    #[serde(rename = "lease_left_ms", serialize_with = "millis")]
    pub lease_left: TimeDelta,
}

/// A recorded step.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StepInfo {
    /// Its key.
    pub key: StepKey,
    /// `step`, `transaction`, `invoke` …
    pub kind: String,
    /// The value as JSON. A large value, or one after many others, is replaced by a text with its size.
    pub value: Box<RawValue>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// What an execution waits for, or a sleep that is over.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WaitInfo {
    /// Its key.
    pub key: StepKey,
    /// `sleep`, `invoke` …
    pub kind: String,
    /// The end of a sleep, or the deadline of a child, an event or a row change.
    pub wake_at: Option<DateTime<Utc>>,
    /// The child's id.
    pub child_id: Option<Uuid>,
    /// The event's name.
    pub event: Option<String>,
    /// Whether a filter selects among the events of this name.
    pub filtered: bool,
}

/// The execution that invoked another one.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Parent {
    /// Its id.
    pub id: Uuid,
    /// The parent; `None` if it was removed.
    pub execution: Option<Brief>,
}

fn millis<S: Serializer>(time: &TimeDelta, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(time.num_milliseconds())
}

fn optional_millis<S: Serializer>(
    time: &Option<TimeDelta>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.num_milliseconds())
        .serialize(serializer)
}

impl Inspect<'_> {
    /// Returns everything that the database knows about one execution.
    ///
    /// `None` if it is unknown or was removed.
    pub async fn story(self, id: Uuid) -> Result<Option<Story>> {
        self.conductor.migrate().await?;
        // One snapshot, so that all parts are of the same moment.
        let mode = "isolation level repeatable read, read only";
        let mut snapshot = self.conductor.database().begin_as(mode).await?;
        let story = find(&mut snapshot, id).await;
        snapshot.settle(story).await
    }
}

async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Story>> {
    let Some(info) = query::find(connection, id).await? else {
        return Ok(None);
    };
    let failures = query::failures(connection, id).await?;
    Ok(Some(read(connection, info, failures).await?))
}

async fn read(
    connection: &mut PgConnection,
    info: ExecutionInfo,
    failures: Vec<FailedAttempt>,
) -> Result<Story> {
    let row = details::details(connection, info.id).await?;
    let millis = |ms: i64| TimeDelta::try_milliseconds(ms).unwrap_or(TimeDelta::MAX);
    let parent = match row.parent_id {
        Some(id) => Some(Parent {
            id,
            execution: briefs(connection, &[id]).await?.remove(&id),
        }),
        None => None,
    };
    let process = match (row.lease_left_ms, row.host, row.pid) {
        (Some(left), Some(host), Some(pid)) => Some(Process {
            host,
            pid,
            lease_left: millis(left),
        }),
        _ => None,
    };
    let mut steps = steps_of(connection, info.id).await?;
    let new_input = steps.iter().position(|step| step.kind == NEW_INPUT);
    let new_input = new_input.map(|place| steps.remove(place));
    Ok(Story {
        new_input: new_input.and_then(|step| serde_json::from_str(step.value.get()).ok()),
        now: row.now,
        why: why(connection, info.id).await?,
        served: row.served,
        max_attempts: row.max_attempts,
        timeout: row.timeout_ms.map(millis),
        cancelled: row.cancelled.unwrap_or(info.state == Status::Cancelled),
        cancel_reason: row.cancel_reason,
        astray: match (row.astray, row.astray_key) {
            (Some(runs), Some(key)) => Some(Astray { runs, key }),
            _ => None,
        },
        runner: row.orchestrator_id.map(|orchestrator| Runner {
            orchestrator,
            process,
        }),
        parent,
        failures,
        steps,
        waits: waits_of(connection, info.id).await?,
        children: children(connection, &[info.id], i64::MAX).await?,
        info,
    })
}

async fn steps_of(connection: &mut PgConnection, id: Uuid) -> Result<Vec<StepInfo>> {
    let mut steps = steps::list(connection, id, MOST_SHOWN, MOST_SHOWN_TOGETHER)
        .await?
        .into_iter()
        .map(|step| {
            Ok(StepInfo {
                key: StepKey::read(&step.key),
                kind: step.kind,
                value: raw(step.value)?,
                recorded_at: step.recorded_at,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    steps.sort_by(|a, b| (a.recorded_at, &a.key).cmp(&(b.recorded_at, &b.key)));
    Ok(steps)
}

async fn waits_of(connection: &mut PgConnection, id: Uuid) -> Result<Vec<WaitInfo>> {
    let mut waits: Vec<_> = details::waits(connection, id)
        .await?
        .into_iter()
        .map(|wait| WaitInfo {
            key: StepKey::read(&wait.key),
            kind: wait.kind,
            wake_at: wait.wake_at,
            child_id: wait.child_id,
            event: wait.event,
            filtered: wait.filtered,
        })
        .collect();
    waits.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(waits)
}
