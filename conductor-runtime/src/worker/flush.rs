use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Postgres};
use uuid::Uuid;

use super::fetch::{Ask, Claimed, disown, finish_and_claim, is_paused};
use super::outcome::{End, Outcome};
use super::suspend::Suspensions;
use crate::db::{Fault, fault};
use crate::error::Verdict;

/// Outcomes as the arrays that travel.
#[derive(Debug, Default)]
pub(super) struct Columns<'o> {
    pub(super) ids: Vec<Uuid>,
    pub(super) claims: Vec<i32>,
    pub(super) outputs: Vec<&'o str>,
    pub(super) failed_ids: Vec<Uuid>,
    pub(super) failed_claims: Vec<i32>,
    pub(super) errors: Vec<&'o str>,
    pub(super) permanent: Vec<bool>,
    pub(super) delay_ms: Vec<Option<i64>>,
    /// Who waits for what ends here.
    pub(super) parents: Vec<Uuid>,
    pub(super) released_ids: Vec<Uuid>,
    pub(super) released_claims: Vec<i32>,
    pub(super) postponed_ids: Vec<Uuid>,
    pub(super) postponed_claims: Vec<i32>,
    pub(super) postponed_until: Vec<DateTime<Utc>>,
    pub(super) suspended: Suspensions<'o>,
}

impl<'o> Columns<'o> {
    pub(super) fn of(outcomes: &'o [Outcome]) -> Self {
        let mut columns = Self::default();
        for outcome in outcomes {
            if let End::Completed(_) | End::Failed { .. } = &outcome.end {
                columns.parents.extend(outcome.parent);
            }
            match &outcome.end {
                End::Completed(output) => {
                    columns.ids.push(outcome.id);
                    columns.claims.push(outcome.claim);
                    columns.outputs.push(output);
                }
                End::Failed { error, verdict } => {
                    columns.failed_ids.push(outcome.id);
                    columns.failed_claims.push(outcome.claim);
                    columns.errors.push(error);
                    columns.permanent.push(*verdict == Verdict::Permanent);
                    columns.delay_ms.push(match verdict {
                        Verdict::After(delay) => Some(millis(*delay)),
                        Verdict::Policy | Verdict::Permanent => None,
                    });
                }
                End::Suspended(waits) => columns.suspended.add(outcome.id, outcome.claim, waits),
                End::Released => {
                    columns.released_ids.push(outcome.id);
                    columns.released_claims.push(outcome.claim);
                }
                End::Postponed(until) => {
                    columns.postponed_ids.push(outcome.id);
                    columns.postponed_claims.push(outcome.claim);
                    columns.postponed_until.push(*until);
                }
            }
        }
        columns.parents.sort_unstable();
        columns.parents.dedup();
        columns
    }
}

/// A delay in milliseconds, at most 1000 years, which an interval still holds.
pub(super) fn millis(delay: Duration) -> i64 {
    const LONGEST: i64 = 1000 * 365 * 24 * 60 * 60 * 1000;
    i64::try_from(delay.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST))
}

/// How long a round trip may take: a network that swallows packets says nothing for a quarter of an
/// hour, while a new connection might work.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of a round trip.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) ask: Ask,
    pub(super) claimed: Vec<Claimed>,
    pub(super) next_due: Option<Duration>,
    /// The slots that the worker has, by lane.
    pub(super) lanes: Vec<i32>,
    pub(super) slots: Vec<i32>,
    /// The queue is paused, as far as was asked.
    pub(super) paused: bool,
    /// Outcomes that are not known to be written; to be brought again.
    pub(super) unwritten: Vec<Outcome>,
    /// Outcomes that the database refuses, and refuses as failures too.
    pub(super) refused: Vec<Outcome>,
    pub(super) fault: Option<Fault>,
    /// The claim may have committed although the answer was lost.
    pub(super) suspect: bool,
}

/// One round trip: writes the outcomes, and claims.
///
/// A passing fault leaves the outcomes to be brought again, which is harmless where they were
/// written: a claim number matches once. A refusal is narrowed down to the outcome that caused it.
pub(super) async fn round_trip(
    pool: PgPool,
    outcomes: Vec<Outcome>,
    ask: Ask,
    known: Option<Vec<Uuid>>,
    after_fault: bool,
) -> Returned {
    let mut returned = Returned {
        ask,
        claimed: Vec::new(),
        next_due: None,
        lanes: Vec::new(),
        slots: Vec::new(),
        paused: false,
        unwritten: Vec::new(),
        refused: Vec::new(),
        fault: None,
        suspect: known.is_some(),
    };
    let ask = &returned.ask;
    let connection = if after_fault {
        living(&pool).await
    } else {
        pool.acquire().await
    };
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "no connection");
            returned.unwritten = outcomes;
            returned.fault = Some(Fault::Passing);
            return returned;
        }
    };
    if let Some(known) = known {
        match disown(&mut connection, ask, &known).await {
            Ok(()) => returned.suspect = false,
            Err(fault) => {
                returned.unwritten = outcomes;
                returned.fault = Some(fault);
                return returned;
            }
        }
    }
    // After the claim, so that a pause which the claim did not see is seen now.
    let answer = async {
        let answer = finish_and_claim(&mut connection, &outcomes, ask).await?;
        let paused = ask.paused && is_paused(&mut connection, ask.queue).await.unwrap_or(false);
        Ok((answer, paused))
    };
    let answer = match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            // The statement may still be under way; nobody else must get this connection.
            connection.close_on_drop();
            Err(sqlx::Error::Protocol(format!(
                "no answer within {PATIENCE:?}"
            )))
        }
    };
    match answer {
        Ok((answer, paused)) => {
            returned.paused = paused;
            returned.claimed = answer.claimed;
            returned.next_due = answer.next_due;
            returned.lanes = answer.lanes;
            returned.slots = answer.slots;
        }
        Err(error) => {
            let kind = fault(&error);
            returned.fault = Some(kind);
            match kind {
                Fault::Passing => {
                    tracing::debug!(%error, "a round trip failed");
                    // What the server itself refuses, such as a deadlock's victim, has not happened.
                    let answered = matches!(error, sqlx::Error::Database(_));
                    returned.suspect = returned.ask.want > 0 && !answered;
                    returned.unwritten = outcomes;
                }
                Fault::LeaseLost => returned.unwritten = outcomes,
                Fault::Refused if outcomes.is_empty() => {
                    tracing::error!(%error, "the database refuses to claim");
                }
                Fault::Refused => {
                    tracing::warn!(%error, "the database refuses an outcome; looking for it");
                    let ask = Ask {
                        want: 0,
                        idle: false,
                        paused: false,
                        lanes: Vec::new(),
                        ..returned.ask.clone()
                    };
                    drop(connection);
                    (returned.unwritten, returned.refused) =
                        narrow_down(&pool, outcomes, &ask).await;
                }
            }
        }
    }
    returned
}

/// A connection that answers: after a restart of the server, those in the pool may be dead.
async fn living(pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    loop {
        let mut connection = pool.acquire().await?;
        match connection.ping().await {
            Ok(()) => return Ok(connection),
            Err(error) => tracing::debug!(%error, "a dead connection is put away"),
        }
    }
}

/// Writes halves of halves until the refused outcomes stand alone, and fails those executions
/// with the database's words. Gives back what a passing fault has kept from being written, and what
/// is refused in every form.
async fn narrow_down(
    pool: &PgPool,
    outcomes: Vec<Outcome>,
    ask: &Ask,
) -> (Vec<Outcome>, Vec<Outcome>) {
    let mut unwritten = Vec::new();
    let mut refused = Vec::new();
    let mut parts = vec![outcomes];
    while let Some(mut part) = parts.pop() {
        let written = async {
            finish_and_claim(&mut *pool.acquire().await?, &part, ask)
                .await
                .map(drop)
        };
        match written.await {
            Ok(()) => {}
            Err(error) if fault(&error) != Fault::Refused => unwritten.append(&mut part),
            Err(_) if part.len() > 1 => {
                let rest = part.split_off(part.len() / 2);
                parts.push(rest);
                parts.push(part);
            }
            Err(error) => {
                let Some(one) = part.first_mut() else {
                    continue;
                };
                match &one.end {
                    End::Completed(_) => {
                        one.end = End::permanent(&format!("the output was not stored: {error}"));
                        parts.push(part);
                    }
                    End::Suspended(_) => {
                        one.end = End::permanent(&format!("its waits were not stored: {error}"));
                        parts.push(part);
                    }
                    End::Failed { error: text, .. } if !text.starts_with(REFUSED) => {
                        one.end = End::permanent(&format!("{REFUSED}: {error}"));
                        parts.push(part);
                    }
                    End::Failed { .. } | End::Released | End::Postponed(_) => {
                        tracing::error!(execution = %one.id, %error, "an outcome cannot be written");
                        refused.append(&mut part);
                    }
                }
            }
        }
    }
    (unwritten, refused)
}

const REFUSED: &str = "the database refused this attempt's error text";
