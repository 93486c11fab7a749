//! The round trip between a worker and the database.

use conductor_postgres::store::{
    Claim, ClaimRequest, ClaimResponse, disown, finish_and_claim, is_paused,
};
use conductor_postgres::{ANSWER, Database, Fault, Session, fault, is_locked, living, no_answer};
use tokio::sync::watch;
use uuid::Uuid;

use super::columns::columns;
use super::control::Control;
use super::locked::take_locked;
use super::outcome::{End, Outcome};
use super::protocol::{Exchanged, Request};
use super::refused::narrow_down;
use crate::client::Conductor;

/// What a round trip needs besides its request.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) conductor: Conductor,
    pub(super) control: watch::Receiver<Control>,
}

/// How a request was answered.
enum Sent {
    Answered(Exchanged, Option<Session>),
    /// Another transaction's lock held it up, so nothing was claimed and no end was written.
    Locked(Request, sqlx::Error),
}

/// Runs one round trip: writes the outcomes, and claims. Returns its result, and the session for the next one, which
/// has its statements prepared.
///
/// After a temporary fault the outcomes are sent again. That is harmless if they were already written, because a claim
/// number matches only once. A refusal is narrowed down to the outcome that causes it.
pub(super) async fn round_trip(
    line: Line,
    request: Request,
    spare: Option<Session>,
) -> (Exchanged, Option<Session>) {
    match line.send(request, spare).await {
        Sent::Answered(exchanged, session) => (exchanged, session),
        Sent::Locked(request, error) => (line.send_without_locked(request, &error).await, None),
    }
}

impl Line {
    fn database(&self) -> &Database {
        self.conductor.database()
    }

    async fn send(&self, request: Request, spare: Option<Session>) -> Sent {
        let (outcomes, after_fault) = (request.outcomes, request.after_fault);
        let mut exchanged = Exchanged::of(request.claim, request.known.is_some());
        let queue = exchanged.request.queue;
        let mut session = match opened(self.database(), spare, after_fault).await {
            Ok(session) => session,
            Err(error) => {
                self.tell(&error, queue, after_fault);
                return Sent::Answered(exchanged.without(outcomes, Fault::Passing), None);
            }
        };
        if let Some(known) = request.known {
            if let Err(error) = given_back(&mut session, &exchanged.request, &known).await {
                let kind = fault(&error);
                if kind == Fault::Passing {
                    self.tell(&error, queue, after_fault);
                }
                return Sent::Answered(exchanged.without(outcomes, kind), None);
            }
            exchanged.suspect = false;
        }
        let control = self.control.clone();
        let answer = answered(&mut session, &outcomes, &exchanged.request, control).await;
        let error = match answer {
            Ok((response, paused)) => {
                self.conductor.outage().over();
                let ends = outcomes.iter().filter(|outcome| outcome.is_end());
                (self.conductor.notifier().ends()).written(ends.map(|outcome| outcome.id));
                let session = Some(session).filter(Session::is_at_rest);
                return Sent::Answered(exchanged.with(response, paused), session);
            }
            Err(error) => error,
        };
        drop(session);
        let exchanged = match fault(&error) {
            Fault::Passing if is_locked(&error) => {
                let request = Request {
                    outcomes,
                    claim: exchanged.request,
                    known: None,
                    after_fault,
                };
                return Sent::Locked(request, error);
            }
            Fault::Passing => self.unanswered(exchanged, outcomes, &error, after_fault),
            Fault::LeaseLost => exchanged.without(outcomes, Fault::LeaseLost),
            Fault::Refused => refused(self.database(), exchanged, outcomes, &error).await,
        };
        Sent::Answered(exchanged, None)
    }

    /// Returns the result of a round trip that a temporary fault ended.
    fn unanswered(
        &self,
        mut exchanged: Exchanged,
        outcomes: Vec<Outcome>,
        error: &sqlx::Error,
        after_fault: bool,
    ) -> Exchanged {
        let request = &exchanged.request;
        self.tell(error, request.queue, after_fault);
        let asked = request.want > 0 || !request.lanes.back.is_empty();
        exchanged.suspect = asked && !is_undone(error);
        exchanged.without(outcomes, Fault::Passing)
    }

    /// Logs a fault, unless it is part of an outage or follows another one.
    fn tell(&self, error: &sqlx::Error, queue: i32, after_fault: bool) {
        if !self.conductor.outage().met(error) && !after_fault {
            tracing::warn!(%error, queue,
                "the database does not do what a worker asks for; outcomes are kept and it is tried again");
        }
    }

    /// Repeats a round trip after a lock timeout, without the outcomes that are locked. If none is locked, something
    /// that a claim or a new wait touches must be; then repeats it without those.
    async fn send_without_locked(&self, mut request: Request, error: &sqlx::Error) -> Exchanged {
        let asked = request.claim.clone();
        let after_fault = request.after_fault;
        let taken = take_locked(self.database(), &mut request.outcomes);
        let taken = in_time(taken, asked.orchestrator, self.control.clone()).await;
        let mut locked = taken.and_then(Result::ok).unwrap_or_default();
        let found = !locked.is_empty();
        if !found {
            let waits = |outcome: &mut Outcome| matches!(outcome.end, End::Suspended(_));
            locked.extend(request.outcomes.extract_if(.., waits));
            request.claim = request.claim.without_claim();
        }
        if !self.conductor.outage().met(error) && !after_fault {
            tracing::warn!(
                queue = asked.queue,
                set_aside = locked.len(),
                execution = locked.first().map(|one| tracing::field::display(one.id)),
                "somebody's open transaction has locked what a worker is to write; it is written when that is over"
            );
        }
        let mut exchanged = match self.send(request, None).await {
            Sent::Answered(exchanged, _) => exchanged,
            Sent::Locked(request, error) => {
                let exchanged = Exchanged::of(request.claim, false);
                self.unanswered(exchanged, request.outcomes, &error, after_fault)
            }
        };
        exchanged.locked.extend(locked);
        if !found {
            // The request was not answered.
            exchanged.request = asked;
            exchanged.fault.get_or_insert(Fault::Passing);
        }
        exchanged
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
    request: &ClaimRequest,
    known: &[(Uuid, Claim)],
) -> Result<(), sqlx::Error> {
    let disown = async {
        disown(session, request, known).await?;
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
    request: &ClaimRequest,
    control: watch::Receiver<Control>,
) -> Result<(ClaimResponse, bool), sqlx::Error> {
    let answer = async {
        let bytes = outcomes.iter().map(Outcome::bytes).sum();
        let answer = finish_and_claim(session, columns(outcomes), bytes, request).await?;
        if !request.paused {
            session.end().await?;
            return Ok((answer, false));
        }
        // After the claim, so that a pause that the claim did not see is seen now.
        session.separate().await?;
        let paused = is_paused(session, request.queue).await.unwrap_or(false);
        // What matters is committed.
        let _ = session.end().await;
        Ok((answer, paused))
    };
    match in_time(answer, request.orchestrator, control).await {
        Some(answer) => answer,
        None => Err(no_answer(session)),
    }
}

/// Looks for the outcomes that the database refuses, and writes the others.
async fn refused(
    database: &Database,
    mut exchanged: Exchanged,
    outcomes: Vec<Outcome>,
    error: &sqlx::Error,
) -> Exchanged {
    exchanged.fault = Some(Fault::Refused);
    if outcomes.is_empty() {
        tracing::error!(%error, "the database refuses to claim");
        return exchanged;
    }
    tracing::warn!(%error, "the database refuses an outcome; looking for it");
    let request = exchanged.request.without_claim();
    (exchanged.unwritten, exchanged.refused) = narrow_down(database, outcomes, &request).await;
    exchanged
}

/// Runs `work` with a time limit, and only while the lease is held. Returns `None` otherwise: a network that drops the
/// heartbeat's answers may drop these, too, and what it claims must not run any more.
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

/// Returns whether an error proves that nothing was committed. It does if the server itself refused, as for the victim
/// of a deadlock, but not if the session ended or a pooler lost the server.
fn is_undone(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().map(|db| db.code());
    code.is_some_and(|code| {
        let code = code.unwrap_or_default();
        !code.starts_with("08") && !code.starts_with("57P")
    })
}
