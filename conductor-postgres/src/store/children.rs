//! The children of executions, and summaries of executions.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns::columns;

columns! {
    /// A child as its parent names it.
    pub struct Named {
        /// The execution that invoked it.
        pub parent_id: Uuid,
        /// Its id.
        pub id: Uuid,
        /// The key under which it was invoked; `None` for a repeat.
        pub key: Option<String>,
        /// The outcome that its parent recorded.
        pub recorded: Option<String>,
        /// How many children the parent has.
        pub siblings: i64,
    }

    /// A summary of an execution.
    pub struct Summary {
        /// Its id.
        pub id: Uuid,
        /// The task's name.
        pub task: String,
        /// Its state.
        pub state: String,
        /// When it was invoked.
        pub created_at: DateTime<Utc>,
        /// When it is due; `None` once it has ended.
        pub run_at: Option<DateTime<Utc>>,
        /// Whether it waits for its task's window.
        pub postponed: bool,
        /// When a worker last claimed it.
        pub claimed_at: Option<DateTime<Utc>>,
        /// When it ended.
        pub finished_at: Option<DateTime<Utc>>,
        /// The number of failed attempts.
        pub failures: i32,
        /// The first 1000 characters of the last failure's text, or of a cancel's reason.
        pub error: Option<String>,
        /// Whether a living process serves the task.
        pub served: bool,
    }
}

/// Returns at most `limit` children of each of these executions. Those that have not completed come first.
pub async fn children_of(
    connection: &mut PgConnection,
    parents: &[Uuid],
    limit: i64,
) -> Result<Vec<Named>, sqlx::Error> {
    // A child that has ended is found by its parent's step record, so that finished executions need no index by
    // parent.
    sqlx::query_as(
        "with named as (
             select s.execution_id as parent_id, conductor.as_uuid(conductor.json_field(s.value, 'id')) as id, s.key,
                    conductor.json_field(s.value, 'state') as recorded
               from conductor.steps s
              where s.execution_id = any ($1) and s.kind = 'invoke'
                and conductor.as_uuid(conductor.json_field(s.value, 'id')) is not null
             union all
             select w.execution_id, w.child_id, w.key, null
               from conductor.waits w where w.execution_id = any ($1) and w.child_id is not null
             union all
             select l.parent_id, l.id, l.parent_key, null
               from conductor.live_executions l where l.parent_id = any ($1) and l.parent_id is not null
         ), once as (
             select distinct on (n.parent_id, n.id) n.parent_id, n.id, n.key, n.recorded
               from named n
              order by n.parent_id, n.id, n.key nulls last, n.recorded nulls last
         ), ranked as (
             select o.parent_id, o.id, o.key, o.recorded, count(*) over (partition by o.parent_id) as siblings,
                    row_number() over (partition by o.parent_id
                                       order by coalesce(o.recorded, '') = 'completed', o.id) as place
               from once o
         )
         select r.parent_id, r.id, r.key, r.recorded, r.siblings from ranked r
          where r.place <= $2 order by r.parent_id, r.id",
    )
    .bind(parents)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// Returns summaries of those of these executions that exist.
pub async fn summaries(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Summary>, sqlx::Error> {
    sqlx::query_as(
        "select id, task, state, conductor.shown(created_at) as created_at, conductor.shown(run_at) as run_at, postponed,
                conductor.shown(claimed_at) as claimed_at, conductor.shown(finished_at) as finished_at, failures,
                left(error, 1000) as error,
                task in (select t.name from conductor.orchestrators o
                           join conductor.tasks t on t.id = any (o.task_ids)
                          where o.lease_until > clock_timestamp()) as served
           from conductor.executions where id = any ($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
}
