use std::time::Instant;

use sqlx::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Invoked;
use super::invocation::NewExecution;
use crate::db::{Batcher, Database, Fault, OUTAGE, Patience, fault, no_answer, take_message};
use crate::error::{Error, Result};

/// Most executions in one statement.
pub(super) const MAX_ROWS: usize = 5000;

/// Which execution an invoke gives, and how.
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

/// Writes the executions of concurrent `invoke` calls together. Those with a key apart, as they may
/// have to wait for somebody's transaction.
#[derive(Debug)]
pub(super) struct Inserter {
    database: Database,
    plain: Batcher<Waiting>,
    keyed: Batcher<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    new: NewExecution,
    since: Instant,
    done: oneshot::Sender<Result<Answer>>,
}

impl Inserter {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            plain: Batcher::new(),
            keyed: Batcher::new(),
        }
    }

    /// Returns when the execution is committed.
    pub(super) async fn insert(&self, new: NewExecution) -> Result<Answer> {
        let (done, outcome) = oneshot::channel();
        let database = self.database.clone();
        let batcher = if new.is_keyed() {
            &self.keyed
        } else {
            &self.plain
        };
        let since = Instant::now();
        batcher.add(Waiting { new, since, done }, take_batch, move |batch| {
            write(database.clone(), batch)
        });
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}

fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    take_message(waiting, MAX_ROWS, |waiting| waiting.new.bytes())
}

/// One statement for all; where it is refused, one for each, so that a bad one is refused alone.
async fn write(database: Database, batch: Vec<Waiting>) {
    let since = batch.iter().map(|waiting| waiting.since).min();
    let mut patience = Patience::since(since.unwrap_or_else(Instant::now), OUTAGE);
    let (rows, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.new, w.done)).unzip();
    match insert_again(&database, &rows, false, &mut patience).await {
        // A caller that no longer waits has its execution all the same.
        Ok(answers) => callers
            .into_iter()
            .zip(answers)
            .for_each(|(caller, answer)| {
                let _ = caller.send(Ok(answer));
            }),
        Err(error) if rows.len() == 1 || fault(&error) == Fault::Passing => {
            let text = error.to_string();
            let mut first = Some(error);
            for caller in callers {
                let error = first
                    .take()
                    .unwrap_or_else(|| sqlx::Error::Protocol(text.clone()));
                let _ = caller.send(Err(patience.over(error)));
            }
        }
        Err(_) => {
            for (row, caller) in rows.iter().zip(callers) {
                let mut patience = Patience::new(OUTAGE);
                // The refused statement may have been a repeated one.
                let rows = std::slice::from_ref(row);
                let answers = insert_again(&database, rows, true, &mut patience).await;
                let answer = answers
                    .map(|answers| answers.first().copied().unwrap_or(Answer::created(row.id)));
                let _ = caller.send(answer.map_err(|error| patience.over(error)));
            }
        }
    }
}

/// Inserts, and again where the connection broke and nobody knows whether it committed: the ids
/// are ours, so nothing is made twice.
pub(super) async fn insert_again(
    database: &Database,
    rows: &[NewExecution],
    mut again: bool,
    patience: &mut Patience,
) -> Result<Vec<Answer>, sqlx::Error> {
    loop {
        let inserted = async {
            let mut session = patience.session(database).await?;
            let inserted = insert(&mut session, rows, false, again);
            match tokio::time::timeout(patience.answer(), inserted).await {
                Ok(inserted) => session.settle(inserted).await,
                Err(_) => Err(no_answer(&mut session)),
            }
        };
        match inserted.await {
            Err(error) if patience.again(&error).await => again = true,
            other => return other,
        }
    }
}

/// The statement itself, on any connection; the answers in the order of the rows.
pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[NewExecution],
    in_transaction: bool,
    again: bool,
) -> Result<Vec<Answer>, sqlx::Error> {
    let ids: Vec<Uuid> = column(rows, |row| row.id);
    let keyed = rows.iter().any(NewExecution::is_keyed);
    let given: (Option<Vec<Uuid>>, Option<Vec<String>>) = sqlx::query_as(
        "select ids, came_of
           from conductor.invoke_many($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(&ids)
    .bind(column(rows, |row| row.task.as_str()))
    .bind(column(rows, |row| row.payload.as_str()))
    .bind(column(rows, |row| row.run_at))
    .bind(column(rows, |row| row.delay_ms))
    .bind(column(rows, |row| row.priority))
    .bind(in_transaction)
    .bind(again)
    .bind(keyed.then(|| column(rows, |row| row.dedupe_key.as_deref())))
    .bind(keyed.then(|| column(rows, |row| row.throttle_ms)))
    .bind(keyed.then(|| column(rows, |row| row.debounce_ms)))
    .fetch_one(connection)
    .await?;
    let (Some(executions), Some(words)) = given else {
        return Ok(ids.into_iter().map(Answer::created).collect());
    };
    let answers = executions.into_iter().zip(words).map(|(id, word)| {
        let came_of = Invoked::read(&word)?;
        Ok(Answer { id, came_of })
    });
    answers.collect()
}

fn column<'r, C>(rows: &'r [NewExecution], value: impl Fn(&'r NewExecution) -> C) -> Vec<C> {
    rows.iter().map(value).collect()
}
