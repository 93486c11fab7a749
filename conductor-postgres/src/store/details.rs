//! What is known of one execution beside its row: its process, its task's options, and its waits.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns::columns;

columns! {
    /// What belongs to an execution.
    pub struct Details {
        /// The database's time.
        pub now: DateTime<Utc>,
        /// The process that has claimed it.
        pub orchestrator_id: Option<i64>,
        /// The execution that invoked it.
        pub parent_id: Option<Uuid>,
        /// The reason of a cancel, if one was given.
        pub cancel_reason: Option<String>,
        /// The process's host name; `None` if its row was removed.
        pub host: Option<String>,
        /// The process id on that host.
        pub pid: Option<i32>,
        /// Whether its cancel was requested; `None` if it has ended.
        pub cancelled: Option<bool>,
        /// How many runs in a row asked for nothing of what they had waited for.
        pub astray: Option<i32>,
        /// The key of a wait that the last of these runs did not ask for.
        pub astray_key: Option<String>,
        /// The number of attempts after which a failure is final.
        pub max_attempts: i32,
        /// How long the process's lease still lasts.
        pub lease_left_ms: Option<i64>,
        /// The time limit of one attempt.
        pub timeout_ms: Option<i64>,
        /// Whether a living process serves the task.
        pub served: bool,
    }
}

/// Something that an execution waits for, or a sleep that is over.
#[derive(Debug)]
pub struct Wait {
    /// Its key.
    pub key: String,
    /// Its kind.
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

/// Returns what belongs to an execution that exists.
pub async fn details(connection: &mut PgConnection, id: Uuid) -> Result<Details, sqlx::Error> {
    sqlx::query_as(
        "select conductor.now() as now, e.orchestrator_id, e.parent_id, e.cancel_reason, o.host, o.pid,
                l.cancelled, l.astray, l.astray_key, t.max_attempts,
                (extract(epoch from o.lease_until - clock_timestamp()) * 1000)::bigint as lease_left_ms,
                (extract(epoch from t.timeout) * 1000)::bigint as timeout_ms,
                exists (select from conductor.orchestrators s
                         where t.id = any (s.task_ids) and s.lease_until > clock_timestamp()) as served
           from conductor.executions e
           join conductor.tasks t on t.name = e.task
           left join conductor.live_executions l on l.id = $1
           left join conductor.orchestrators o on o.id = e.orchestrator_id
          where e.id = $1",
    )
    .bind(id)
    .fetch_one(connection)
    .await
}

/// Returns the waits of an execution, in no order.
pub async fn waits(connection: &mut PgConnection, id: Uuid) -> Result<Vec<Wait>, sqlx::Error> {
    type Columns = (
        String,
        String,
        Option<DateTime<Utc>>,
        Option<Uuid>,
        Option<String>,
        bool,
    );
    let rows: Vec<Columns> = sqlx::query_as(
        "select key, kind, conductor.shown(wake_at), child_id, event_name, event_filter is not null
           from conductor.waits where execution_id = $1",
    )
    .bind(id)
    .fetch_all(connection)
    .await?;
    let waits = rows
        .into_iter()
        .map(|(key, kind, wake_at, child_id, event, filtered)| Wait {
            key,
            kind,
            wake_at,
            child_id,
            event,
            filtered,
        });
    Ok(waits.collect())
}
