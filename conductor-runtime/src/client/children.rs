use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::story::StepKey;
use super::{Inspect, Status};
use crate::error::Result;

/// A child of an execution.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Child {
    /// Its id.
    pub id: Uuid,
    /// The execution that invoked it, or a repeat of that one.
    pub parent_id: Uuid,
    /// The key under which it was invoked. `None` for a repeat, which has no waiting parent.
    pub key: Option<StepKey>,
    /// How many children the parent has.
    pub siblings: i64,
    /// The outcome that its parent recorded: a state, or `timed_out`.
    pub recorded: Option<String>,
    /// The execution; `None` if it was removed.
    pub execution: Option<Brief>,
}

/// A summary of an execution.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Brief {
    /// The task's name.
    pub task: String,
    /// Its state.
    pub state: Status,
    /// When it was invoked.
    pub created_at: DateTime<Utc>,
    /// When it is due; `None` once it has ended.
    pub run_at: Option<DateTime<Utc>>,
    /// Whether it waits for its task's window: `run_at` is then the opening.
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

impl Inspect<'_> {
    /// Returns at most `limit` children of each of these executions.
    ///
    /// Those that have not completed come first.
    pub async fn children(self, parents: &[Uuid], limit: u32) -> Result<Vec<Child>> {
        self.conductor.migrate().await?;
        let mut session = self.conductor.database().session().await?;
        let children = children(&mut session, parents, i64::from(limit)).await;
        session.settle(children).await
    }
}

pub(super) async fn children(
    connection: &mut PgConnection,
    parents: &[Uuid],
    limit: i64,
) -> Result<Vec<Child>> {
    type Named = (Uuid, Uuid, Option<String>, Option<String>, i64);
    // A child that has ended is found by its parent's step record, so that finished executions need no index by
    // parent.
    let named: Vec<Named> = sqlx::query_as(
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
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<Uuid> = named.iter().map(|(_, id, ..)| *id).collect();
    let briefs = briefs(connection, &ids).await?;
    let child = |(parent_id, id, key, recorded, siblings): (_, _, Option<String>, _, _)| Child {
        id,
        parent_id,
        key: key.as_deref().map(StepKey::read),
        siblings,
        recorded,
        execution: briefs.get(&id).cloned(),
    };
    Ok(named.into_iter().map(child).collect())
}

pub(super) async fn briefs(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Brief>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    sqlx::query(
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
    .await?
    .iter()
    .map(|row| Ok((row.try_get("id")?, brief(row)?)))
    .collect()
}

fn brief(row: &PgRow) -> Result<Brief> {
    let state: String = row.try_get("state")?;
    Ok(Brief {
        task: row.try_get("task")?,
        state: state.parse()?,
        created_at: row.try_get("created_at")?,
        run_at: row.try_get("run_at")?,
        postponed: row.try_get("postponed")?,
        claimed_at: row.try_get("claimed_at")?,
        finished_at: row.try_get("finished_at")?,
        failures: row.try_get("failures")?,
        error: row.try_get("error")?,
        served: row.try_get("served")?,
    })
}
