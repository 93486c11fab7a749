//! Recorded steps.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Database, RetryBudget};

/// A recorded step as it is shown.
#[derive(Debug)]
pub struct Step {
    /// Its key.
    pub key: String,
    /// Its kind.
    pub kind: String,
    /// The value as JSON, or a text with its size.
    pub value: String,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// A record that is written in the transaction of its step.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The execution.
    pub id: Uuid,
    /// The number of its claim.
    pub claim: i32,
    /// The orchestrator that made the claim.
    pub orchestrator: i64,
    /// The step's key.
    pub key: &'a str,
    /// The step's kind.
    pub kind: &'a str,
    /// The value as JSON.
    pub value: &'a str,
    /// The fingerprint of what the step was given.
    pub input: Option<i32>,
}

/// Records a step in the transaction of its body.
///
/// Raises `CLAIM_LOST` if the execution is not running under this claim, `CANCELLED` if it was cancelled.
pub async fn record_in_transaction(
    connection: &mut PgConnection,
    record: Record<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select conductor.record_in_transaction(
                    p_id => $1, p_claim => $2, p_key => $3, p_kind => $4, p_value => $5, p_orchestrator => $6,
                    p_input => $7)",
    )
    .bind(record.id)
    .bind(record.claim)
    .bind(record.key)
    .bind(record.kind)
    .bind(record.value)
    .bind(record.orchestrator)
    .bind(record.input)
    .execute(connection)
    .await
    .map(drop)
}

/// Returns whether a step is recorded, after any write that is in progress for its execution; `None` if the claim is
/// lost.
pub async fn recorded(
    database: &Database,
    budget: &RetryBudget,
    id: Uuid,
    key: &str,
    claim: i32,
    orchestrator: i64,
) -> Result<Option<bool>, sqlx::Error> {
    let recorded = sqlx::query_scalar("select conductor.recorded($1, $2, $3, $4)")
        .bind(id)
        .bind(key)
        .bind(claim)
        .bind(orchestrator);
    let recorded: Option<Option<bool>> = budget.ask(database, recorded).await?;
    Ok(recorded.flatten())
}

/// Returns the steps of an execution, in no order. A value of more than `most_bytes`, or after `most_bytes_together` of
/// other values, is replaced by a text with its size.
pub async fn list(
    connection: &mut PgConnection,
    id: Uuid,
    most_bytes: i32,
    most_bytes_together: i64,
) -> Result<Vec<Step>, sqlx::Error> {
    let rows: Vec<(String, String, String, DateTime<Utc>)> = sqlx::query_as(
        "select s.key, s.kind,
                case when s.bytes <= $2 and s.before < $3 then s.value::text
                     else to_json(format('%s bytes of JSON, not shown', s.bytes))::text end,
                conductor.shown(s.recorded_at)
           from (select r.*, sum(r.bytes) over (order by r.recorded_at, r.key) - r.bytes as before
                   from conductor.steps r where r.execution_id = $1) s",
    )
    .bind(id)
    .bind(most_bytes)
    .bind(most_bytes_together)
    .fetch_all(connection)
    .await?;
    let steps = rows
        .into_iter()
        .map(|(key, kind, value, recorded_at)| Step {
            key,
            kind,
            value,
            recorded_at,
        });
    Ok(steps.collect())
}
