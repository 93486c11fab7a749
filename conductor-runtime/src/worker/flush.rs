use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::{ANSWER, Database, Fault, Session, fault, is_locked, living, no_answer};
use tokio::sync::watch;
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::control::Control;
use super::fetch::{Answer, Ask, Claimed, Seen, Slots, disown, finish_and_claim, is_paused};
use super::locked::take_locked;
use super::outcome::{End, Outcome};
use super::suspend::Suspensions;
use crate::client::Conductor;
use crate::verdict::Verdict;

/// Outcomes as the columns of a statement.
#[derive(Debug, Default)]
pub(super) struct Columns<'o> {
    pub(super) ids: Vec<Uuid>,
    pub(super) claims: ClaimColumns,
    pub(super) outputs: Vec<&'o str>,
    pub(super) failed_ids: Vec<Uuid>,
    pub(super) failed_claims: ClaimColumns,
    pub(super) errors: Vec<&'o str>,
    pub(super) failures: Vec<Option<&'o str>>,
    pub(super) forgotten_of: Vec<Uuid>,
    pub(super) forgotten: Vec<&'o str>,
    pub(super) replayed: Vec<bool>,
    pub(super) permanent: Vec<bool>,
    pub(super) delay_ms: Vec<Option<i64>>,
    /// The parents that wait for what ends here.
    pub(super) parents: Vec<Uuid>,
    pub(super) released_ids: Vec<Uuid>,
    pub(super) released_claims: ClaimColumns,
    pub(super) postponed_ids: Vec<Uuid>,
    pub(super) postponed_claims: ClaimColumns,
    pub(super) postponed_until: Vec<DateTime<Utc>>,
    pub(super) unreadable_ids: Vec<Uuid>,
    pub(super) unreadable_claims: ClaimColumns,
    pub(super) unreadable_reasons: Vec<&'o str>,
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
                End::Failed {
                    error,
                    failure,
                    verdict,
                    forgotten,
                    replayed,
                } => {
                    for key in forgotten {
                        columns.forgotten_of.push(outcome.id);
                        columns.forgotten.push(key);
                    }
                    columns.failed_ids.push(outcome.id);
                    columns.failed_claims.push(outcome.claim);
                    columns.replayed.push(*replayed);
                    columns.errors.push(error);
                    columns.failures.push(failure.as_deref());
                    columns.permanent.push(*verdict == Verdict::Permanent);
                    columns.delay_ms.push(match verdict {
                        Verdict::After(delay) => Some(millis(*delay)),
                        Verdict::Policy | Verdict::Permanent => None,
                    });
                }
                End::Suspended(waiting) => {
                    columns.suspended.add(outcome.id, outcome.claim, waiting);
                }
                End::Released => {
                    columns.released_ids.push(outcome.id);
                    columns.released_claims.push(outcome.claim);
                }
                End::Postponed(until) => {
                    columns.postponed_ids.push(outcome.id);
                    columns.postponed_claims.push(outcome.claim);
                    columns.postponed_until.push(*until);
                }
                End::Unreadable(reason) => {
                    columns.unreadable_ids.push(outcome.id);
                    columns.unreadable_claims.push(outcome.claim);
                    columns.unreadable_reasons.push(reason);
                }
            }
        }
        columns.parents.sort_unstable();
        columns.parents.dedup();
        columns
    }
}

/// Returns the executions that end here, as far as is known: a failed one may be retried.
fn ends(outcomes: &[Outcome]) -> impl Iterator<Item = Uuid> + Clone {
    let is_end = |outcome: &&Outcome| matches!(outcome.end, End::Completed(_) | End::Failed { .. });
    outcomes.iter().filter(is_end).map(|outcome| outcome.id)
}

/// Returns a delay in milliseconds, at most 1000 years, which fits into an interval.
pub(super) fn millis(delay: Duration) -> i64 {
    const LONGEST: i64 = 1000 * 365 * 24 * 60 * 60 * 1000;
    i64::try_from(delay.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST))
}

/// The input of a round trip.
pub(super) struct Trip {
    pub(super) conductor: Conductor,
    /// The session of the previous trip.
    pub(super) spare: Option<Session>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) ask: Ask,
    /// All claims that the worker knows, if the others are to be given back.
    pub(super) known: Option<Vec<(Uuid, Claim)>>,
    pub(super) after_fault: bool,
    /// Whether locked outcomes have already been left out.
    pub(super) again: bool,
    pub(super) control: watch::Receiver<Control>,
}

/// The result of a round trip.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) ask: Ask,
    pub(super) claimed: Vec<Claimed>,
    pub(super) next_due: Option<Duration>,
    pub(super) slots: Vec<Slots>,
    /// Where the next scan begins.
    pub(super) seen: Seen,
    /// Whether the queue is paused, if that was requested.
    pub(super) paused: bool,
    /// Outcomes that are not known to be written, to be sent again.
    pub(super) unwritten: Vec<Outcome>,
    /// Outcomes that the database refuses in every form.
    pub(super) refused: Vec<Outcome>,
    /// Outcomes of executions that another transaction has locked.
    pub(super) locked: Vec<Outcome>,
    pub(super) fault: Option<Fault>,
    /// Whether the claim may have committed although the answer was lost.
    pub(super) suspect: bool,
    /// The session for the next trip, which has its statements prepared.
    pub(super) session: Option<Session>,
}

/// Runs one round trip: writes the outcomes, and claims.
///
/// After a temporary fault the outcomes are sent again. That is harmless if they were already
/// written, because a claim number matches only once. A refusal is narrowed down to the outcome
/// that causes it.
pub(super) async fn round_trip(trip: Trip) -> Returned {
    let Trip {
        conductor,
        spare,
        outcomes,
        ask,
        known,
        after_fault,
        again,
        control,
    } = trip;
    let database = conductor.database();
    let tell = |error: &sqlx::Error, queue: i32| {
        if !conductor.outage().met(error) && !after_fault {
            tracing::warn!(%error, queue,
                "the database does not do what a worker asks for; outcomes are kept and it is tried again");
        }
    };
    let mut returned = Returned::of(ask, known.is_some());
    let mut session = match opened(database, spare, after_fault).await {
        Ok(session) => session,
        Err(error) => {
            tell(&error, returned.ask.queue);
            return returned.without(outcomes, Fault::Passing);
        }
    };
    if let Some(known) = known {
        if let Err(error) = given_back(&mut session, &returned.ask, &known).await {
            let kind = fault(&error);
            if kind == Fault::Passing {
                tell(&error, returned.ask.queue);
            }
            return returned.without(outcomes, kind);
        }
        returned.suspect = false;
    }
    let answer = answered(&mut session, &outcomes, &returned.ask, control.clone()).await;
    let error = match answer {
        Ok((answer, paused)) => {
            conductor.outage().over();
            conductor.notifier().ends().written(ends(&outcomes));
            return returned.with(answer, paused, session);
        }
        Err(error) => error,
    };
    drop(session);
    match fault(&error) {
        Fault::Passing if is_locked(&error) && !again => {
            let trip = Trip {
                ask: returned.ask,
                spare: None,
                outcomes,
                known: None,
                after_fault,
                again: true,
                control,
                conductor,
            };
            without_locked(trip, &error).await
        }
        Fault::Passing => {
            tell(&error, returned.ask.queue);
            let asked = returned.ask.want > 0 || !returned.ask.lanes.back.is_empty();
            returned.suspect = asked && !is_undone(&error);
            returned.without(outcomes, Fault::Passing)
        }
        Fault::LeaseLost => returned.without(outcomes, Fault::LeaseLost),
        Fault::Refused => refused(database, returned, outcomes, &error).await,
    }
}

impl Returned {
    /// The result of a trip of which nothing is known yet.
    fn of(ask: Ask, suspect: bool) -> Self {
        Self {
            ask,
            claimed: Vec::new(),
            next_due: None,
            slots: Vec::new(),
            seen: Seen::default(),
            paused: false,
            unwritten: Vec::new(),
            refused: Vec::new(),
            locked: Vec::new(),
            fault: None,
            suspect,
            session: None,
        }
    }

    fn with(self, answer: Answer, paused: bool, session: Session) -> Self {
        Self {
            paused,
            claimed: answer.claimed,
            next_due: answer.next_due,
            slots: answer.slots,
            seen: answer.seen,
            session: Some(session).filter(Session::is_at_rest),
            ..self
        }
    }

    /// The same, after a fault, with these outcomes to be sent again.
    fn without(self, unwritten: Vec<Outcome>, fault: Fault) -> Self {
        Self {
            unwritten,
            fault: Some(fault),
            ..self
        }
    }
}

/// Returns a session at whose other end a server answers.
async fn opened(
    database: &Database,
    spare: Option<Session>,
    after_fault: bool,
) -> Result<Session, sqlx::Error> {
    let session = match spare {
        _ if after_fault => living(database).await?,
        Some(session) => session,
        None => database.connection().await?,
    };
    database.ready(session).await
}

/// Gives back what the database has claimed for this worker and the worker does not know.
async fn given_back(
    session: &mut Session,
    ask: &Ask,
    known: &[(Uuid, Claim)],
) -> Result<(), sqlx::Error> {
    let disown = async {
        disown(session, ask, known).await?;
        session.separate().await
    };
    match tokio::time::timeout(ANSWER, disown).await {
        Ok(disowned) => disowned,
        Err(_) => Err(no_answer(session)),
    }
}

/// Returns the answer, and whether the queue is paused, if that was requested.
async fn answered(
    session: &mut Session,
    outcomes: &[Outcome],
    ask: &Ask,
    control: watch::Receiver<Control>,
) -> Result<(Answer, bool), sqlx::Error> {
    let answer = async {
        let answer = finish_and_claim(session, outcomes, ask).await?;
        if !ask.paused {
            session.end().await?;
            return Ok((answer, false));
        }
        // After the claim, so that a pause that the claim did not see is seen now.
        session.separate().await?;
        let paused = is_paused(session, ask.queue).await.unwrap_or(false);
        // What matters is committed.
        let _ = session.end().await;
        Ok((answer, paused))
    };
    match in_time(answer, ask.orchestrator, control).await {
        Some(answer) => answer,
        None => Err(no_answer(session)),
    }
}

/// Looks for the outcomes that the database refuses, and writes the others.
async fn refused(
    database: &Database,
    mut returned: Returned,
    outcomes: Vec<Outcome>,
    error: &sqlx::Error,
) -> Returned {
    returned.fault = Some(Fault::Refused);
    if outcomes.is_empty() {
        tracing::error!(%error, "the database refuses to claim");
        return returned;
    }
    tracing::warn!(%error, "the database refuses an outcome; looking for it");
    let ask = returned.ask.without_claim();
    (returned.unwritten, returned.refused) = narrow_down(database, outcomes, &ask).await;
    returned
}

/// Repeats the trip after a lock timeout, without the outcomes that are locked. If none is locked,
/// something that a claim or a new wait touches must be; then repeats it without those.
async fn without_locked(mut trip: Trip, error: &sqlx::Error) -> Returned {
    let (database, orchestrator) = (trip.conductor.database().clone(), trip.ask.orchestrator);
    let asked = trip.ask.clone();
    let taken = take_locked(&database, &mut trip.outcomes);
    let taken = in_time(taken, orchestrator, trip.control.clone()).await;
    let mut locked = taken.and_then(Result::ok).unwrap_or_default();
    let found = !locked.is_empty();
    if !found {
        let waits = |outcome: &mut Outcome| matches!(outcome.end, End::Suspended(_));
        locked.extend(trip.outcomes.extract_if(.., waits));
        trip.ask = trip.ask.without_claim();
    }
    if !trip.conductor.outage().met(error) && !trip.after_fault {
        tracing::warn!(
            queue = asked.queue,
            set_aside = locked.len(),
            execution = locked.first().map(|one| tracing::field::display(one.id)),
            "somebody's open transaction has locked what a worker is to write; it is written when that is over"
        );
    }
    let mut returned = Box::pin(round_trip(trip)).await;
    returned.locked.extend(locked);
    if !found {
        // The request was not answered.
        returned.ask = asked;
        returned.fault.get_or_insert(Fault::Passing);
    }
    returned
}

/// Runs `work` with a time limit, and only while the lease is held. Returns `None` otherwise: a
/// network that drops the heartbeat's answers may drop these, too, and what it claims must not run
/// any more.
async fn in_time<T>(
    work: impl Future<Output = T>,
    orchestrator: i64,
    mut control: watch::Receiver<Control>,
) -> Option<T> {
    let lost = async {
        // Outcomes alone are also written without an orchestrator id.
        let lost = control.wait_for(|control| {
            orchestrator != i64::default() && control.orchestrator != Some(orchestrator)
        });
        if lost.await.is_err() {
            // The orchestrator is gone, and this future will be dropped.
            std::future::pending().await
        }
    };
    tokio::select! {
        done = tokio::time::timeout(ANSWER, work) => done.ok(),
        () = lost => None,
    }
}

/// Returns whether an error proves that nothing was committed. It does if the server itself
/// refused, as for the victim of a deadlock, but not if the session ended or a pooler lost the
/// server.
fn is_undone(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().map(|db| db.code());
    code.is_some_and(|code| {
        let code = code.unwrap_or_default();
        !code.starts_with("08") && !code.starts_with("57P")
    })
}

/// Writes outcomes without claiming.
pub(super) async fn write_alone(
    database: &Database,
    outcomes: &[Outcome],
    ask: &Ask,
) -> Result<(), sqlx::Error> {
    let mut session = database.session().await?;
    let written = finish_and_claim(&mut session, outcomes, ask);
    match tokio::time::timeout(ANSWER, written).await {
        Ok(written) => session.settle(written.map(drop)).await,
        Err(_) => Err(no_answer(&mut session)),
    }
}

/// Splits refused outcomes in halves until each refused one is alone, and fails those executions
/// with the database's error. Returns those that a temporary fault kept from being written, and
/// those that are refused in every form.
async fn narrow_down(
    database: &Database,
    outcomes: Vec<Outcome>,
    ask: &Ask,
) -> (Vec<Outcome>, Vec<Outcome>) {
    let mut unwritten = Vec::new();
    let mut refused = Vec::new();
    let mut parts = vec![outcomes];
    while let Some(mut part) = parts.pop() {
        match write_alone(database, &part, ask).await {
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
                        one.replace(End::permanent(&format!(
                            "the output was not stored: {error}"
                        )));
                        parts.push(part);
                    }
                    End::Suspended(_) => {
                        one.replace(End::permanent(&format!(
                            "its waits were not stored: {error}"
                        )));
                        parts.push(part);
                    }
                    End::Failed { error: text, .. } if !text.starts_with(REFUSED) => {
                        one.replace(End::permanent(&format!("{REFUSED}: {error}")));
                        parts.push(part);
                    }
                    End::Failed { .. } | End::Released | End::Postponed(_) | End::Unreadable(_) => {
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
