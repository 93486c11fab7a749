use std::sync::Arc;
use std::time::Instant;

use conductor_postgres::store::executions::{self, KeyOptions, NewExecutions};
use conductor_postgres::{
    Batcher, Database, Fault, OUTAGE, RetryBudget, fault, is_locked, take_message,
};
use sqlx::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Invoked;
use super::held_up::HeldUp;
use super::invocation::NewExecution;
use crate::error::{Error, Result};

/// The most executions in one statement.
pub(super) const MAX_ROWS: usize = 5000;

/// The execution that an invoke returns, and the effect of the invoke.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) id: Uuid,
    pub(super) came_of: Invoked,
}

impl Answer {
    pub(super) fn created(id: Uuid) -> Self {
        Self {
            id,
            came_of: Invoked::Created,
        }
    }
}

/// Writes the executions of concurrent `invoke` calls together. Keyed calls are batched separately,
/// because they may have to wait for another transaction.
#[derive(Debug)]
pub(super) struct Inserter {
    database: Database,
    plain: Batcher<Waiting>,
    keyed: Batcher<Waiting>,
    held_up: HeldUp,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) new: NewExecution,
    pub(super) since: Instant,
    /// It was sent before, and whether that committed is unknown.
    pub(super) again: bool,
    pub(super) done: oneshot::Sender<Result<Answer>>,
}

impl Inserter {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            plain: Batcher::new(),
            keyed: Batcher::new(),
            held_up: HeldUp::new(),
        }
    }

    /// Returns once the execution is committed.
    pub(super) async fn insert(&self, new: NewExecution) -> Result<Answer> {
        let (done, outcome) = oneshot::channel();
        let database = self.database.clone();
        let since = Instant::now();
        let waiting = Waiting {
            new,
            since,
            again: false,
            done,
        };
        if waiting.new.is_keyed() {
            // If the key is locked, the call joins those that already wait for it.
            if let Some(waiting) = self.held_up.attract(waiting) {
                let held_up = self.held_up.clone();
                self.keyed.add(waiting, take_batch, move |batch| {
                    write_keyed(database.clone(), held_up.clone(), batch)
                });
            }
        } else {
            self.plain.add(waiting, take_batch, move |batch| {
                let database = database.clone();
                // Calls without a key wait for no lock, so no call is left over.
                async move { drop(write(&database, batch).await) }
            });
        }
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}

pub(super) fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    take_message(waiting, MAX_ROWS, |waiting| waiting.new.bytes())
}

/// Hands calls whose keys are locked over to `held_up`, so that they do not delay the next batch.
async fn write_keyed(database: Database, held_up: HeldUp, batch: Vec<Waiting>) {
    for waiting in write(&database, batch).await {
        held_up.add(&database, waiting);
    }
}

/// Writes all calls in one statement, or, if that is refused, one by one, so that a bad call fails
/// alone. Returns the calls whose lock could not be obtained in time.
pub(super) async fn write(database: &Database, batch: Vec<Waiting>) -> Vec<Waiting> {
    let since = batch.iter().map(|waiting| waiting.since).min();
    let mut budget = RetryBudget::since(since.unwrap_or_else(Instant::now), OUTAGE);
    let mut again = batch.iter().any(|waiting| waiting.again);
    let (rows, callers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|w| (w.new, (w.since, w.done)))
        .unzip();
    match insert_free(database, &rows, &mut again, &mut budget).await {
        // The execution of a caller that no longer waits was created all the same.
        Ok(answers) => callers
            .into_iter()
            .zip(answers)
            .for_each(|((_, caller), answer)| {
                let _ = caller.send(Ok(answer));
            }),
        Err(error) if is_locked(&error) => return still_waiting(rows, callers, again, error),
        Err(error) if rows.len() == 1 || fault(&error) == Fault::Passing => {
            let text = error.to_string();
            let mut first = Some(error);
            for (_, caller) in callers {
                let error = first
                    .take()
                    .unwrap_or_else(|| sqlx::Error::Protocol(text.clone()));
                let _ = caller.send(Err(budget.over(error).into()));
            }
        }
        Err(_) => return one_by_one(database, rows, callers).await,
    }
    Vec::new()
}

type Caller = (Instant, oneshot::Sender<Result<Answer>>);

async fn one_by_one(
    database: &Database,
    rows: Vec<NewExecution>,
    callers: Vec<Caller>,
) -> Vec<Waiting> {
    let mut locked = Vec::new();
    for (row, (since, caller)) in rows.into_iter().zip(callers) {
        let mut budget = RetryBudget::new(OUTAGE);
        // The refused statement may have been a retry.
        let one = std::slice::from_ref(&row);
        let mut again = true;
        match insert_free(database, one, &mut again, &mut budget).await {
            Err(error) if is_locked(&error) => {
                locked.extend(still_waiting(
                    vec![row],
                    vec![(since, caller)],
                    again,
                    error,
                ));
            }
            Err(error) => {
                let _ = caller.send(Err(budget.over(error).into()));
            }
            Ok(answers) => {
                let answer = answers.first().copied();
                let _ = caller.send(Ok(answer.unwrap_or(Answer::created(row.id))));
            }
        }
    }
    locked
}

/// Returns the calls that still have time left; the others receive an error.
fn still_waiting(
    rows: Vec<NewExecution>,
    callers: Vec<Caller>,
    again: bool,
    error: sqlx::Error,
) -> Vec<Waiting> {
    let error = Arc::new(error);
    let waiting = rows.into_iter().zip(callers);
    let waiting = waiting.filter_map(|(new, (since, done))| {
        if since.elapsed() < OUTAGE {
            return Some(Waiting {
                new,
                since,
                again,
                done,
            });
        }
        let _ = done.send(Err(Error::Unavailable {
            waited: since.elapsed(),
            reason: format!("somebody's open transaction holds its dedupe key: {error}"),
            source: Arc::clone(&error),
        }));
        None
    });
    waiting.collect()
}

/// Inserts, and retries after passing faults, including locks of other transactions.
pub(super) async fn insert_again(
    database: &Database,
    rows: &[NewExecution],
    mut again: bool,
    budget: &mut RetryBudget,
) -> Result<Vec<Answer>, sqlx::Error> {
    loop {
        match insert_free(database, rows, &mut again, budget).await {
            Err(error) if is_locked(&error) && budget.may_retry(&error).await => {}
            other => return other,
        }
    }
}

/// Inserts, and retries if the connection broke and the fate of the commit is unknown. The ids are
/// made here, so a retry creates nothing twice. Returns the error if a key is locked; `again` then
/// tells whether an earlier try may have committed, which the next try must know to report a
/// replacement.
async fn insert_free(
    database: &Database,
    rows: &[NewExecution],
    again: &mut bool,
    budget: &mut RetryBudget,
) -> Result<Vec<Answer>, sqlx::Error> {
    loop {
        let insert =
            async |connection: &mut PgConnection| insert(connection, rows, false, *again).await;
        match budget.run(database, insert).await {
            Err(error) if !is_locked(&error) && budget.may_retry(&error).await => *again = true,
            other => return other,
        }
    }
}

/// Runs the statement on any connection. The answers are in the order of the rows.
pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[NewExecution],
    in_transaction: bool,
    again: bool,
) -> Result<Vec<Answer>, sqlx::Error> {
    let ids: Vec<Uuid> = column(rows, |row| row.id);
    let keyed = rows.iter().any(NewExecution::is_keyed);
    let new = NewExecutions {
        ids: &ids,
        tasks: column(rows, |row| row.task.as_str()),
        payloads: column(rows, |row| row.payload.as_str()),
        run_at: column(rows, |row| row.run_at),
        delay_ms: column(rows, |row| row.delay_ms),
        priorities: column(rows, |row| row.priority),
        keys: keyed.then(|| KeyOptions {
            keys: column(rows, |row| row.dedupe_key.as_deref()),
            throttle_ms: column(rows, |row| row.throttle_ms),
            debounce_ms: column(rows, |row| row.debounce_ms),
            max_wait_ms: column(rows, |row| row.max_wait_ms),
        }),
    };
    let given = executions::invoke_many(connection, new, in_transaction, again).await?;
    let (Some(found), Some(words)) = (given.ids, given.came_of) else {
        return Ok(ids.into_iter().map(Answer::created).collect());
    };
    let answers = found.into_iter().zip(words).map(|(id, word)| {
        let came_of = Invoked::read(&word)?;
        Ok(Answer { id, came_of })
    });
    answers.collect()
}

fn column<'r, C>(rows: &'r [NewExecution], value: impl Fn(&'r NewExecution) -> C) -> Vec<C> {
    rows.iter().map(value).collect()
}
