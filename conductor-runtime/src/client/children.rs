use std::collections::HashMap;

use chrono::{DateTime, Utc};
use conductor_postgres::store::children::{Named, Summary, children_of, summaries};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::step_key::StepKey;
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
    let named = children_of(connection, parents, limit).await?;
    let ids: Vec<Uuid> = named.iter().map(|child| child.id).collect();
    let briefs = briefs(connection, &ids).await?;
    let child = |named: Named| Child {
        id: named.id,
        parent_id: named.parent_id,
        key: named.key.as_deref().map(StepKey::read),
        siblings: named.siblings,
        recorded: named.recorded,
        execution: briefs.get(&named.id).cloned(),
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
    summaries(connection, ids)
        .await?
        .into_iter()
        .map(|summary| Ok((summary.id, brief(summary)?)))
        .collect()
}

fn brief(summary: Summary) -> Result<Brief> {
    Ok(Brief {
        task: summary.task,
        state: summary.state.parse()?,
        created_at: summary.created_at,
        run_at: summary.run_at,
        postponed: summary.postponed,
        claimed_at: summary.claimed_at,
        finished_at: summary.finished_at,
        failures: summary.failures,
        error: summary.error,
        served: summary.served,
    })
}
