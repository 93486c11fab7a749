//! What a worker sends in a round trip, and what it receives.

use std::time::Duration;

use conductor_postgres::Fault;
use conductor_postgres::store::{Claim, ClaimRequest, ClaimResponse, Claimed, Seen, Slots};
use uuid::Uuid;

use super::outcome::Outcome;

/// The request of a round trip.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) claim: ClaimRequest,
    /// All claims that the worker knows, if the others are to be given back.
    pub(super) known: Option<Vec<(Uuid, Claim)>>,
    /// Whether the round trip before failed.
    pub(super) after_fault: bool,
}

/// The result of a round trip.
#[derive(Debug)]
pub(super) struct Exchanged {
    /// What was asked for.
    pub(super) request: ClaimRequest,
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
}

impl Exchanged {
    /// The result of a round trip of which nothing is known yet.
    pub(super) fn of(request: ClaimRequest, suspect: bool) -> Self {
        Self {
            request,
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
        }
    }

    /// The same, with this answer.
    pub(super) fn with(self, response: ClaimResponse, paused: bool) -> Self {
        Self {
            paused,
            claimed: response.claimed,
            next_due: response.next_due,
            slots: response.slots,
            seen: response.seen,
            ..self
        }
    }

    /// The same, after a fault, with these outcomes to be sent again.
    pub(super) fn without(self, unwritten: Vec<Outcome>, fault: Fault) -> Self {
        Self {
            unwritten,
            fault: Some(fault),
            ..self
        }
    }
}
