use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::QueryScalar;
use uuid::Uuid;

use super::claim::ClaimColumns;
use super::suspensions::KeyColumns;

/// Records of steps as the columns of a statement.
#[derive(Debug, Default)]
pub struct RecordColumns<'r> {
    /// The executions.
    pub ids: Vec<Uuid>,
    /// The claims under which they run.
    pub claims: ClaimColumns,
    /// The keys of the steps.
    pub keys: Vec<&'r str>,
    /// What the records are of.
    pub kinds: Vec<&'r str>,
    /// Their values as JSON.
    pub values: Vec<&'r str>,
    /// Waits whose results the handlers have had.
    pub had: KeyColumns<'r>,
    /// Waits that the handlers no longer have.
    pub withdrawn: KeyColumns<'r>,
}

/// Returns the statement that writes records, and returns for each whether its claim is still held: `None` if another
/// transaction has locked the execution. With `waits`, it waits for such a lock, and fails if the lock takes too long. Sent a
/// second time, it changes nothing.
pub fn record_steps<'q>(
    records: &'q RecordColumns<'q>,
    waits: bool,
) -> QueryScalar<'q, Postgres, Vec<Option<bool>>, PgArguments> {
    sqlx::query_scalar(
        "select conductor.record_steps(
            p_ids => $1, p_claims => $2, p_keys => $3, p_kinds => $4, p_values => $5, p_waits => $6,
            p_had_of => $7, p_had => $8, p_withdrawn_of => $9, p_withdrawn => $10, p_orchestrators => $11)",
    )
    .bind(&records.ids)
    .bind(&records.claims.numbers)
    .bind(&records.keys)
    .bind(&records.kinds)
    .bind(&records.values)
    .bind(waits)
    .bind(&records.had.of)
    .bind(&records.had.keys)
    .bind(&records.withdrawn.of)
    .bind(&records.withdrawn.keys)
    .bind(&records.claims.orchestrators)
}
