//! Comparisons of what a program declares with what the database has. They change nothing, and call no function of the
//! library, because roles that may only read run them.

use sqlx::PgConnection;
use sqlx::types::JsonValue;
use uuid::Uuid;

use super::columns::columns;

columns! {
    /// A schedule that is declared, stored, or both.
    pub struct Schedule {
        /// The task.
        pub task: String,
        /// Its name.
        pub name: String,
        /// The rule as the code declares it; `None` if it does not.
        pub declared: Option<String>,
        /// The rule as the database has it; `None` if it does not.
        pub stored: Option<String>,
        /// Whether it was created at run time; `None` if the database does not have it.
        pub dynamic: Option<bool>,
        /// The payload as JSON.
        pub payload: Option<String>,
        /// Whether a living process has the task.
        pub served: bool,
        /// Whether newer code has dropped it; it is removed with the last process that declares it.
        pub retired: bool,
    }

    /// A subscription whose declaration differs from what is stored.
    pub struct Subscription {
        /// The task.
        pub task: String,
        /// The event's name.
        pub event: String,
        /// Whether the code declares it.
        pub declared: bool,
        /// Whether the database has it.
        pub stored: bool,
        /// Whether a living process has the task.
        pub served: bool,
    }

    /// A task whose executions were left for a build that can read them.
    pub struct Left {
        /// The task.
        pub task: String,
        /// How many of its executions were left.
        pub executions: i64,
        /// One of them.
        pub execution: Uuid,
        /// What cannot be read of that one.
        pub error: String,
    }

    /// A task that has live executions.
    pub struct Waiting {
        /// The task.
        pub task: String,
        /// Its queue.
        pub queue: String,
        /// How many live executions it has.
        pub executions: i64,
        /// Whether a living process has the task.
        pub task_served: bool,
        /// Whether a living process serves the queue.
        pub queue_served: bool,
    }
}

/// Returns the schedules of these owners, those that are declared, and all dynamic ones. Decides as
/// `conductor.declare_schedules` does.
pub async fn schedules(
    connection: &mut PgConnection,
    owners: Vec<String>,
    declared: JsonValue,
) -> Result<Vec<Schedule>, sqlx::Error> {
    sqlx::query_as(
        "with declared as (
             select d.task, d.name, d.owner,
                    concat_ws(', ', d.cron, d.timezone, 'missed ' || d.missed, 'overlap ' || d.overlap) as words
               from jsonb_to_recordset($2) as d(
                    task text, name text, owner text, cron text, timezone text, missed text, overlap text)
         ), stored as (
             select t.name as task, s.name, s.dynamic, s.owner, s.retired, s.payload::text as payload,
                    concat_ws(', ', s.cron, s.timezone, 'missed ' || s.missed, 'overlap ' || s.overlap) as words,
                    exists (select from conductor.orchestrators o
                             where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()) as served
               from conductor.schedules s
               join conductor.tasks t on t.id = s.task_id
         )
         select coalesce(s.task, d.task) as task, coalesce(s.name, d.name) as name, d.words as declared,
                s.words as stored, s.dynamic, s.payload, coalesce(s.served, false) as served,
                coalesce(s.retired, false) as retired
           from (select * from stored where dynamic or owner = any ($1)
                    or (task, name) in (select e.task, e.name from declared e)) s
           full join declared d on d.task = s.task and d.name = s.name and not s.dynamic
          order by 1, 2",
    )
    .bind(owners)
    .bind(declared)
    .fetch_all(connection)
    .await
}

/// Returns the subscriptions of these owners that are not stored as they are declared. Decides as
/// `conductor.declare_subscriptions` does.
pub async fn subscriptions(
    connection: &mut PgConnection,
    owners: Vec<String>,
    declared: JsonValue,
) -> Result<Vec<Subscription>, sqlx::Error> {
    sqlx::query_as(
        "with declared as (
             select d.task, d.event, d.n, nullif(d.filter, 'null') as filter, d.event_version
               from jsonb_to_recordset($2) as d(
                    task text, event text, n integer, filter jsonb, event_version integer)
         ), stored as (
             select t.name as task, s.event, s.n, s.filter, s.event_version,
                    exists (select from conductor.orchestrators o
                             where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()) as served
               from conductor.subscriptions s
               join conductor.tasks t on t.id = s.task_id
              where s.owner = any ($1)
         )
         select coalesce(s.task, d.task) as task, coalesce(s.event, d.event) as event,
                d.task is not null as declared, s.task is not null as stored, coalesce(s.served, false) as served
           from stored s
           full join declared d on d.task = s.task and d.event = s.event and d.n = s.n
          where (d.filter, d.event_version) is distinct from (s.filter, s.event_version)
             or d.task is null or s.task is null
          order by 1, 2",
    )
    .bind(owners)
    .bind(declared)
    .fetch_all(connection)
    .await
}

/// Returns the tasks of which workers have left executions for another build, ordered by name. Counts at most 10,000
/// executions.
pub async fn left(connection: &mut PgConnection) -> Result<Vec<Left>, sqlx::Error> {
    sqlx::query_as(
        "select t.name as task, count(*) as executions, (array_agg(w.execution_id order by w.execution_id))[1] as execution,
                (array_agg(w.reason order by w.execution_id))[1] as error
           from (select u.execution_id, u.task_id, u.reason
                   from conductor.unreadable u
                   join conductor.live_executions l on l.id = u.execution_id
                  where l.claim = u.left_claim and l.state = 'pending'
                  limit 10000) w
           join conductor.tasks t on t.id = w.task_id
          group by t.name
          order by t.name",
    )
    .fetch_all(connection)
    .await
}

/// Returns the tasks and queues of the `limit` oldest live executions, or of all. Without a limit, the table is read
/// without its index.
pub async fn waiting(
    connection: &mut PgConnection,
    limit: Option<i64>,
) -> Result<Vec<Waiting>, sqlx::Error> {
    sqlx::query_as(
        "with alive as (
             select o.queue_ids, o.task_ids from conductor.orchestrators o
              where o.lease_until > clock_timestamp()
         ), counted as (
             select w.task_id, count(*) as executions
               from (select l.task_id from conductor.live_executions l order by l.id limit $1) w
              group by w.task_id
         )
         select t.name as task, q.name as queue, c.executions,
                exists (select from alive a where t.id = any (a.task_ids)) as task_served,
                exists (select from alive a where q.id = any (a.queue_ids)) as queue_served
           from counted c
           join conductor.tasks t on t.id = c.task_id
           join conductor.queues q on q.id = t.queue_id
          order by t.name",
    )
    .bind(limit)
    .fetch_all(connection)
    .await
}
