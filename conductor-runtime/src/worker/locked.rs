//! Executions that another transaction has locked: the outcomes of others do not wait for them.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use conductor_postgres::{Alone, Database, is_locked, take_message};
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use super::claim::Claim;
use super::fetch::Ask;
use super::flush::write_alone;
use super::outcome::Outcome;

/// The pause between tries. A try itself waits for the lock for a while.
const PAUSE: Duration = Duration::from_millis(100);
/// The most outcomes in one try.
const MOST: usize = 500;

/// Returns the rows that an outcome changes: the execution, and the parent that is informed of its end.
fn touched(outcome: &Outcome) -> impl Iterator<Item = Uuid> {
    [Some(outcome.id), outcome.parent].into_iter().flatten()
}

fn take_touching(outcomes: &mut Vec<Outcome>, locked: &HashSet<Uuid>) -> Vec<Outcome> {
    let is_locked = |outcome: &mut Outcome| touched(outcome).any(|id| locked.contains(&id));
    outcomes.extract_if(.., is_locked).collect()
}

/// Removes the outcomes that cannot be written now.
pub(super) async fn take_locked(
    database: &Database,
    outcomes: &mut Vec<Outcome>,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let ids: Vec<Uuid> = outcomes.iter().flat_map(touched).collect();
    let locked = sqlx::query_scalar("select conductor.locked($1)").bind(ids);
    let locked: Vec<Uuid> = locked.one(database).await?;
    Ok(take_touching(outcomes, &locked.into_iter().collect()))
}

/// Outcomes that wait for a lock. Those of one execution at a time are sent separately, so that they queue for the
/// lock; a query that only tests it may never find it free.
#[derive(Debug)]
pub(super) struct Locked {
    waiting: VecDeque<Outcome>,
    tries: JoinSet<Try>,
    /// The claims of the try in progress, and all rows that it changes.
    under_way: Vec<(Uuid, Claim)>,
    touches: HashSet<Uuid>,
    not_before: Instant,
}

/// The result of a try.
#[derive(Debug)]
pub(super) enum Try {
    Written,
    StillLocked(Vec<Outcome>),
    /// Another fault occurred, which the normal round trips handle.
    Failed(Vec<Outcome>),
}

impl Locked {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            tries: JoinSet::new(),
            under_way: Vec::new(),
            touches: HashSet::new(),
            not_before: Instant::now(),
        }
    }

    pub(super) fn extend(&mut self, outcomes: Vec<Outcome>) {
        self.waiting.extend(outcomes);
    }

    /// Takes over the outcomes that would wait for the same locks.
    pub(super) fn attract(&mut self, outcomes: &mut Vec<Outcome>) {
        if !self.is_empty() {
            let waiting = self.waiting.iter().flat_map(touched);
            let locked = waiting.chain(self.touches.iter().copied()).collect();
            self.waiting.extend(take_touching(outcomes, &locked));
        }
    }

    /// Begins the next try, if it is time. `ask` claims nothing.
    pub(super) fn send(&mut self, database: &Database, ask: Ask) {
        if !self.tries.is_empty() || Instant::now() < self.not_before {
            return;
        }
        let Some(first) = self.waiting.pop_front() else {
            return;
        };
        let locked: HashSet<Uuid> = touched(&first).collect();
        let mut touching = vec![first];
        let mut rest: Vec<Outcome> = self.waiting.drain(..).collect();
        touching.append(&mut take_touching(&mut rest, &locked));
        let outcomes = take_message(&mut touching, MOST, Outcome::bytes);
        self.waiting.extend(rest.into_iter().chain(touching));
        let claims = outcomes.iter().map(|outcome| (outcome.id, outcome.claim));
        self.under_way = claims.collect();
        self.touches = outcomes.iter().flat_map(touched).collect();
        let database = database.clone();
        self.tries.spawn(async move {
            match write_alone(&database, &outcomes, &ask).await {
                Ok(()) => Try::Written,
                Err(error) if is_locked(&error) => Try::StillLocked(outcomes),
                Err(_) => Try::Failed(outcomes),
            }
        });
    }

    /// Waits for the end of a try; forever if none is in progress.
    pub(super) async fn ended(&mut self) -> Result<Try, JoinError> {
        match self.tries.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Returns the outcomes that the normal round trips must send.
    pub(super) fn take(&mut self, ended: Result<Try, JoinError>) -> Vec<Outcome> {
        self.under_way.clear();
        self.touches.clear();
        match ended {
            Ok(Try::Written) => Vec::new(),
            Ok(Try::StillLocked(outcomes)) => {
                self.waiting.extend(outcomes);
                self.not_before = Instant::now() + PAUSE;
                Vec::new()
            }
            Ok(Try::Failed(outcomes)) => outcomes,
            Err(error) => {
                // The outcomes are lost here; the executions are recovered after the lease.
                tracing::error!(%error, "a try to write an outcome panicked");
                Vec::new()
            }
        }
    }

    /// Returns when the next try may begin.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let waits = self.tries.is_empty() && !self.waiting.is_empty();
        waits.then_some(self.not_before)
    }

    /// Returns the claims of all of them.
    pub(super) fn claims(&self) -> impl Iterator<Item = (Uuid, Claim)> {
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|outcome| (outcome.id, outcome.claim));
        waiting.chain(self.under_way.iter().copied())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.tries.is_empty()
    }
}
