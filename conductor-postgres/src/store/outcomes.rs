use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::claim::ClaimColumns;
use super::suspensions::{Suspensions, suspend};
use crate::{Alone, Database, Session};

/// How attempts ended, as the columns of statements.
#[derive(Debug, Default)]
pub struct Outcomes<'o> {
    /// Executions that completed.
    pub completed: Completed<'o>,
    /// Executions whose attempt failed.
    pub failed: Failed<'o>,
    /// The parents that wait for what ends here, in order and without doubles: they are locked in this order.
    pub parents: Vec<Uuid>,
    /// Executions that did not run to an end and are not charged.
    pub released: Released,
    /// The same, not to be claimed before a time.
    pub postponed: Postponed,
    /// The same, for a build that can read what this one cannot.
    pub unreadable: Left<'o>,
    /// Executions of which every branch waits.
    pub suspended: Suspensions<'o>,
}

/// See [`Outcomes`].
#[derive(Debug, Default)]
pub struct Completed<'o> {
    /// The executions.
    pub ids: Vec<Uuid>,
    /// Their claims.
    pub claims: ClaimColumns,
    /// Their outputs as JSON.
    pub outputs: Vec<&'o str>,
}

/// See [`Outcomes`].
#[derive(Debug, Default)]
pub struct Failed<'o> {
    /// The executions.
    pub ids: Vec<Uuid>,
    /// Their claims.
    pub claims: ClaimColumns,
    /// The errors' texts.
    pub errors: Vec<&'o str>,
    /// The errors' codes and details as JSON.
    pub failures: Vec<Option<&'o str>>,
    /// Whether no further attempt follows.
    pub permanent: Vec<bool>,
    /// When the next attempt begins, in milliseconds, if the error tells.
    pub delay_ms: Vec<Option<i64>>,
    /// Whether earlier attempts had recorded all errors, and no step failed in this one.
    pub replayed: Vec<bool>,
    /// Recorded errors whose steps the next attempt runs again: their executions and keys.
    pub forgotten_of: Vec<Uuid>,
    /// See [`forgotten_of`](Self::forgotten_of).
    pub forgotten: Vec<&'o str>,
}

/// See [`Outcomes`].
#[derive(Debug, Default)]
pub struct Released {
    /// The executions.
    pub ids: Vec<Uuid>,
    /// Their claims.
    pub claims: ClaimColumns,
}

/// See [`Outcomes`].
#[derive(Debug, Default)]
pub struct Postponed {
    /// The executions.
    pub ids: Vec<Uuid>,
    /// Their claims.
    pub claims: ClaimColumns,
    /// The times.
    pub until: Vec<DateTime<Utc>>,
}

/// See [`Outcomes`].
#[derive(Debug, Default)]
pub struct Left<'o> {
    /// The executions.
    pub ids: Vec<Uuid>,
    /// Their claims.
    pub claims: ClaimColumns,
    /// What cannot be read.
    pub reasons: Vec<&'o str>,
}

/// Writes the outcomes that have statements of their own.
pub(super) async fn write_others(
    session: &mut Session,
    outcomes: &Outcomes<'_>,
    orchestrator: i64,
) -> Result<(), sqlx::Error> {
    if !outcomes.released.ids.is_empty() {
        release(session, &outcomes.released).await?;
        session.separate().await?;
    }
    if !outcomes.postponed.ids.is_empty() {
        postpone(session, &outcomes.postponed).await?;
        session.separate().await?;
    }
    if !outcomes.unreadable.ids.is_empty() {
        leave_unreadable(session, &outcomes.unreadable, orchestrator).await?;
        session.separate().await?;
    }
    if !outcomes.suspended.ids.is_empty() {
        suspend(session, &outcomes.suspended).await?;
        session.separate().await?;
    }
    Ok(())
}

async fn release(connection: &mut PgConnection, released: &Released) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.release($1, $2, $3)")
        .bind(&released.ids)
        .bind(&released.claims.numbers)
        .bind(&released.claims.orchestrators)
        .execute(connection)
        .await
        .map(drop)
}

async fn postpone(connection: &mut PgConnection, postponed: &Postponed) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.postpone($1, $2, $3, $4)")
        .bind(&postponed.ids)
        .bind(&postponed.claims.numbers)
        .bind(&postponed.until)
        .bind(&postponed.claims.orchestrators)
        .execute(connection)
        .await
        .map(drop)
}

async fn leave_unreadable(
    connection: &mut PgConnection,
    left: &Left<'_>,
    orchestrator: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.leave_unreadable($1, $2, $3, $4, $5)")
        .bind(orchestrator)
        .bind(&left.ids)
        .bind(&left.claims.numbers)
        .bind(&left.reasons)
        .bind(&left.claims.orchestrators)
        .execute(connection)
        .await
        .map(drop)
}

/// Returns which of these executions another transaction has locked.
pub async fn locked(database: &Database, ids: Vec<Uuid>) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select conductor.locked($1)")
        .bind(ids)
        .one(database)
        .await
}
