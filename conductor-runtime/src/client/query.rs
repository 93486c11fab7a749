use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::Alone;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::{Inspect, Status};
use crate::error::{Error, Result};
use crate::task::Trigger;

/// The details of one execution, as stored in the database.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ExecutionInfo {
    /// Its id.
    pub id: Uuid,
    /// The task's name.
    pub task: String,
    /// The queue's name.
    pub queue: String,
    /// Its state.
    pub state: Status,
    /// Executions of higher priority are claimed first.
    pub priority: i32,
    /// When it was invoked.
    pub created_at: DateTime<Utc>,
    /// When it is due; `None` once it has ended.
    pub run_at: Option<DateTime<Utc>>,
    /// When a worker last claimed it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The number of failed attempts.
    pub failures: i32,
    /// The number of attempts that ended because their process crashed.
    pub crashes: i32,
    /// The fencing token of its last claim.
    pub claim: i32,
    /// The execution that this one repeats; after several repeats, the original.
    pub retry_of: Option<Uuid>,
    /// The dedupe key that it was invoked with.
    pub dedupe_key: Option<String>,
    /// What started it.
    pub trigger: Trigger,
    /// Whether it waits for its task's window: `run_at` is then the opening.
    pub postponed: bool,
    /// Why it waits for another build that can read it; `None` if it does not.
    pub unreadable: Option<String>,
    /// The event that it waits for; of several, the first in the order of keys.
    pub event: Option<String>,
    /// The payload as JSON.
    pub payload: Box<RawValue>,
    /// The output as JSON; only if it has completed.
    pub output: Option<Box<RawValue>>,
    /// The last failure's text, or the reason of a cancel.
    pub error: Option<String>,
    /// The code and details of its [`Failure`](crate::failure::Failure) as JSON, if it failed with one.
    pub failure: Option<Box<RawValue>>,
    /// Why it seems stuck; only if it is running.
    pub stuck: Option<Stuck>,
}

/// Why a running execution seems to make no progress.
///
/// In JSON, the time is in milliseconds: `{"kind":"overtime","by_ms":1500}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "StuckJson")]
#[non_exhaustive]
pub enum Stuck {
    /// Its process has ended or could not renew its lease. A living worker will take it back.
    ProcessGone,
    /// It exceeds its task's timeout by this long, so its handler has probably not reached an `.await`.
    Overtime(Duration),
}

/// The JSON of [`Stuck`].
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StuckJson {
    ProcessGone,
    Overtime { by_ms: u64 },
}

impl From<Stuck> for StuckJson {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::ProcessGone => Self::ProcessGone,
            Stuck::Overtime(by) => Self::Overtime {
                by_ms: u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }
}

/// A failed attempt.
#[derive(Debug, Clone, sqlx::FromRow, Serialize)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The number of the attempt, from 1.
    pub attempt: i32,
    /// When it failed.
    pub failed_at: DateTime<Utc>,
    /// The text of the error.
    pub error: String,
}

/// Which executions to list. By default the newest 50 of all.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only of this task.
    pub task: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only in this state.
    pub state: Option<Status>,
    /// Only those invoked at most this long ago.
    ///
    /// A child may be missing if its parent invoked it more than an hour before the row was written, because another
    /// branch of the parent was busy.
    pub newer_than: Option<Duration>,
    /// At most this many.
    pub limit: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            task: None,
            queue: None,
            state: None,
            newer_than: None,
            limit: 50,
        }
    }
}

/// How long the end of an attempt may take to be written.
const GRACE: Duration = Duration::from_secs(1);

const COLUMNS: &str =
    "select id, task, queue, state, priority, conductor.shown(created_at) as created_at,
       conductor.shown(run_at) as run_at, conductor.shown(claimed_at) as claimed_at,
       conductor.shown(finished_at) as finished_at, failures, crashes, claim, retry_of, dedupe_key, postponed, trigger::text as trigger,
       case when state = 'pending'
            then (select u.reason from conductor.unreadable u where u.execution_id = id and u.left_claim = claim)
            end as unreadable,
       case when state = 'suspended'
            then (select w.event_name from conductor.waits w
                   where w.execution_id = id and w.event_name is not null order by w.key limit 1) end as event,
       case when state = 'running' then not exists (
           select from conductor.orchestrators o
            where o.id = orchestrator_id and o.lease_until > clock_timestamp()) end as process_gone,
       case when state = 'running' then
           (select (extract(epoch from conductor.now() - claimed_at - t.timeout) * 1000)::bigint
              from conductor.tasks t where t.name = task) end as overtime_ms";

const VALUES: &str =
    "payload::text as payload, output::text as output, error, failure::text as failure";

/// In a list, a large value is replaced by a text with its size.
const SHORT_VALUES: &str =
    "case when octet_length(payload::text) <= 65536 then payload::text
          else to_json('not listed: ' || octet_length(payload::text) || ' bytes; `find` and `show` have it')::text
          end as payload,
     case when octet_length(output::text) <= 65536 or output is null then output::text
          else to_json('not listed: ' || octet_length(output::text) || ' bytes; `find` and `show` have it')::text
          end as output, error, failure::text as failure";

/// The final states. The view `finished` has executions in these states, and `live` has all others.
const ENDED: [Status; 3] = [Status::Completed, Status::Failed, Status::Cancelled];

/// Builds the query of a list. It contains only the conditions that are set, and the state as a literal, so that the
/// planner chooses the right index. Each half is read in the order of ids, newest first, and not beyond the limit.
fn listing(filter: &Filter) -> String {
    let ended = filter.state.map(|state| ENDED.contains(&state));
    let live = (ended != Some(true)).then(|| half("live", QUEUE_OF_LIVE, filter));
    let finished = (ended != Some(false)).then(|| half("finished", "r.queue_id", filter));
    let halves: Vec<String> = [live, finished].into_iter().flatten().collect();
    let halves = halves.join(" union all ");
    format!("{COLUMNS}, {SHORT_VALUES} from ({halves}) as found order by id desc limit $4")
}

/// Builds one half of a list: finds ids in the table of this kind, and reads their rows from its view. The ids are an
/// array, which the planner expects to be short; with a join it might read the whole table.
fn half(kind: &str, queue_of_row: &str, filter: &Filter) -> String {
    let conditions = [
        filter.task.as_ref().map(|_| {
            "r.task_id = (select t.id from conductor.tasks t where t.name = $1)".to_owned()
        }),
        filter.queue.as_ref().map(|_| {
            format!("{queue_of_row} = (select q.id from conductor.queues q where q.name = $2)")
        }),
        filter
            .state
            .map(|state| format!("r.state = '{}'", state.as_str())),
        filter.newer_than.map(|_| NEWER.to_owned()),
    ];
    let conditions: String = conditions
        .into_iter()
        .flatten()
        .map(|condition| format!(" and {condition}"))
        .collect();
    format!(
        "(select v.* from conductor.{kind} v where v.id = any (array(
              select r.id from conductor.{kind}_executions r where true{conditions} order by r.id desc limit $4)))"
    )
}

/// An execution that waits for a limit is in the queue of its lane, a negative number; one that waits for its turn is
/// in queue 0.
const QUEUE_OF_LIVE: &str = "(case when r.queue_id <= 0
     then (select t.queue_id from conductor.tasks t where t.id = r.task_id) else r.queue_id end)";

/// Ids are ordered by real time, and the database's virtual clock only runs ahead of it, so an id bounds what has to
/// be read. An id may be made up to an hour before its row: by a machine whose clock differs, before an outage, or
/// for a child whose parent was busy in another branch.
const NEWER: &str = "r.created_at >= (select conductor.now()) - $3 * interval '1 second'
  and r.id >= (select rpad(lpad(to_hex(greatest(0, floor(
          (extract(epoch from clock_timestamp()) - $3 - 3600) * 1000))::bigint), 12, '0'), 32, '0')::uuid)";

impl Inspect<'_> {
    /// Returns the details of one execution, or `None` if it is unknown or was removed.
    pub async fn find(self, id: Uuid) -> Result<Option<ExecutionInfo>> {
        self.conductor.migrate().await?;
        let mut session = self.conductor.database().session().await?;
        let info = find(&mut *session, id).await;
        session.settle(info).await
    }

    /// Returns the newest executions that match, newest first.
    ///
    /// A payload or output of more than 64 KiB is replaced by a text with its size; [`find`](Self::find) returns it
    /// in full.
    pub async fn list(self, filter: &Filter) -> Result<Vec<ExecutionInfo>> {
        self.conductor.migrate().await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(listing(filter)))
            .bind(&filter.task)
            .bind(&filter.queue)
            // An interval has a maximum; 1000 years exceed the age of any execution.
            .bind(
                filter
                    .newer_than
                    .map(|age| age.as_secs_f64().min(1000.0 * 365.0 * 86_400.0)),
            )
            .bind(i64::from(filter.limit))
            .all(self.conductor.database())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Returns the failed attempts of an execution, the first one first.
    pub async fn failures(self, id: Uuid) -> Result<Vec<FailedAttempt>> {
        self.conductor.migrate().await?;
        let mut session = self.conductor.database().session().await?;
        let failures = failures(&mut *session, id).await;
        session.settle(failures).await
    }

    /// Returns the database's time, which decides what is due.
    pub async fn now(self) -> Result<DateTime<Utc>> {
        self.conductor.migrate().await?;
        Ok(sqlx::query_scalar("select conductor.now()")
            .one(self.conductor.database())
            .await?)
    }

    /// Returns whether a living process serves this task.
    #[doc(hidden)]
    pub async fn is_served(self, task: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        // Leases use real time, even if a test moves the virtual clock.
        Ok(sqlx::query_scalar(
            "select exists (
                 select from conductor.orchestrators o
                   join conductor.tasks t on t.id = any (o.task_ids)
                  where t.name = $1 and o.lease_until > clock_timestamp())",
        )
        .bind(task)
        .one(self.conductor.database())
        .await?)
    }

    /// Returns the names of all tasks that any program has declared in this database, in order.
    pub async fn task_names(self) -> Result<Vec<String>> {
        self.conductor.migrate().await?;
        Ok(
            sqlx::query_scalar("select name from conductor.tasks order by name")
                .all(self.conductor.database())
                .await?,
        )
    }

    /// Returns the JSON Schema of a task's payload, as its program declared it.
    ///
    /// `None` if the database does not know the task.
    #[doc(hidden)]
    pub async fn payload_schema(self, task: &str) -> Result<Option<serde_json::Value>> {
        self.conductor.migrate().await?;
        Ok(
            sqlx::query_scalar("select payload_schema from conductor.tasks where name = $1")
                .bind(task)
                .optional(self.conductor.database())
                .await?,
        )
    }
}

pub(super) async fn find(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<ExecutionInfo>> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{COLUMNS}, {VALUES} from conductor.executions where id = $1"
    )))
    .bind(id)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn failures(
    executor: impl PgExecutor<'_>,
    id: Uuid,
) -> Result<Vec<FailedAttempt>> {
    Ok(sqlx::query_as(
        "select attempt, conductor.shown(failed_at) as failed_at, error from conductor.failures
          where execution_id = $1 order by attempt",
    )
    .bind(id)
    .fetch_all(executor)
    .await?)
}

fn read(row: &PgRow) -> Result<ExecutionInfo> {
    let state: String = row.try_get("state")?;
    let output: Option<String> = row.try_get("output")?;
    let failure: Option<String> = row.try_get("failure")?;
    let trigger: Option<String> = row.try_get("trigger")?;
    let process_gone: Option<bool> = row.try_get("process_gone")?;
    let overtime: Option<i64> = row.try_get("overtime_ms")?;
    let overtime = overtime.and_then(|ms| u64::try_from(ms).ok());
    Ok(ExecutionInfo {
        id: row.try_get("id")?,
        task: row.try_get("task")?,
        queue: row.try_get("queue")?,
        state: state.parse()?,
        event: row.try_get("event")?,
        unreadable: row.try_get("unreadable")?,
        priority: row.try_get("priority")?,
        created_at: row.try_get("created_at")?,
        run_at: row.try_get("run_at")?,
        claimed_at: row.try_get("claimed_at")?,
        finished_at: row.try_get("finished_at")?,
        failures: row.try_get("failures")?,
        crashes: row.try_get("crashes")?,
        claim: row.try_get("claim")?,
        retry_of: row.try_get("retry_of")?,
        dedupe_key: row.try_get("dedupe_key")?,
        trigger: Trigger::read(trigger.as_deref()),
        postponed: row.try_get("postponed")?,
        payload: raw(row.try_get("payload")?)?,
        output: output.map(raw).transpose()?,
        failure: failure.map(raw).transpose()?,
        error: row.try_get("error")?,
        stuck: match overtime.map(Duration::from_millis) {
            _ if process_gone == Some(true) => Some(Stuck::ProcessGone),
            Some(by) if by > GRACE => Some(Stuck::Overtime(by)),
            _ => None,
        },
    })
}

pub(super) fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json).map_err(|error| Error::Invalid(error.to_string()))
}
