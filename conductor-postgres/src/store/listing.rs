//! Executions as they are shown: one, or the newest that match, with their failed attempts.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::columns::columns;
use crate::{Alone, Database};

columns! {
    /// An execution.
    pub struct Found {
        /// Its id.
        pub id: Uuid,
        /// The task's name.
        pub task: String,
        /// The queue's name.
        pub queue: String,
        /// Its state.
        pub state: String,
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
        /// The number of its last claim.
        pub claim: i32,
        /// The execution that this one repeats.
        pub retry_of: Option<Uuid>,
        /// The dedupe key that it was invoked with.
        pub dedupe_key: Option<String>,
        /// Whether it waits for its task's window.
        pub postponed: bool,
        /// What started it, as JSON.
        pub trigger: Option<String>,
        /// Why it waits for another build that can read it.
        pub unreadable: Option<String>,
        /// The event that it waits for; of several, the first in the order of keys.
        pub event: Option<String>,
        /// Whether its process has ended; `None` if it is not running.
        pub process_gone: Option<bool>,
        /// By how much it exceeds its task's timeout, negative if it does not; `None` if it is not running.
        pub overtime_ms: Option<i64>,
        /// The payload as JSON.
        pub payload: String,
        /// The output as JSON.
        pub output: Option<String>,
        /// The last failure's text, or the reason of a cancel.
        pub error: Option<String>,
        /// The code and details of its failure as JSON.
        pub failure: Option<String>,
    }

    /// A failed attempt.
    pub struct Failed {
        /// The number of the attempt, from 1.
        pub attempt: i32,
        /// When it failed.
        pub failed_at: DateTime<Utc>,
        /// The text of the error.
        pub error: String,
    }
}

/// Which executions to list.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Only of this task.
    pub task: Option<&'a str>,
    /// Only of this queue.
    pub queue: Option<&'a str>,
    /// Only in this state. It becomes a part of the statement.
    pub state: Option<State>,
    /// Only those invoked at most this many seconds ago.
    pub newer_than_secs: Option<f64>,
    /// At most this many.
    pub limit: i64,
}

/// A state of executions.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// Its name in the tables.
    pub name: &'static str,
    /// Whether it is final. The view `finished` has executions in these states, and `live` has all others.
    pub is_final: bool,
}

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

/// Builds the query of a list. It contains only the conditions that are set, and the state as a literal, so that the
/// planner chooses the right index. Each half is read in the order of ids, newest first, and not beyond the limit.
fn listing(listed: &Listed<'_>) -> String {
    let ended = listed.state.map(|state| state.is_final);
    let live = (ended != Some(true)).then(|| half("live", QUEUE_OF_LIVE, listed));
    let finished = (ended != Some(false)).then(|| half("finished", "r.queue_id", listed));
    let halves: Vec<String> = [live, finished].into_iter().flatten().collect();
    let halves = halves.join(" union all ");
    format!("{COLUMNS}, {SHORT_VALUES} from ({halves}) as found order by id desc limit $4")
}

/// Builds one half of a list: finds ids in the table of this kind, and reads their rows from its view. The ids are an
/// array, which the planner expects to be short; with a join it might read the whole table.
fn half(kind: &str, queue_of_row: &str, listed: &Listed<'_>) -> String {
    let conditions = [
        listed.task.map(|_| {
            "r.task_id = (select t.id from conductor.tasks t where t.name = $1)".to_owned()
        }),
        listed.queue.map(|_| {
            format!("{queue_of_row} = (select q.id from conductor.queues q where q.name = $2)")
        }),
        listed
            .state
            .map(|state| format!("r.state = '{}'", state.name)),
        listed.newer_than_secs.map(|_| NEWER.to_owned()),
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

/// Returns the newest executions that match, newest first; large values are replaced by texts.
pub async fn list(database: &Database, listed: Listed<'_>) -> Result<Vec<Found>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(listing(&listed)))
        .bind(listed.task)
        .bind(listed.queue)
        .bind(listed.newer_than_secs)
        .bind(listed.limit)
        .all(database)
        .await
}

/// Returns one execution, or `None` if it is unknown or was removed.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Found>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "{COLUMNS}, {VALUES} from conductor.executions where id = $1"
    )))
    .bind(id)
    .fetch_optional(connection)
    .await
}

/// Returns the failed attempts of an execution, the first one first.
pub async fn failures(connection: &mut PgConnection, id: Uuid) -> Result<Vec<Failed>, sqlx::Error> {
    sqlx::query_as(
        "select attempt, conductor.shown(failed_at) as failed_at, error from conductor.failures
          where execution_id = $1 order by attempt",
    )
    .bind(id)
    .fetch_all(connection)
    .await
}
