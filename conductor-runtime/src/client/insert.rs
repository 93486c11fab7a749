use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Invoked;
use super::invocation::NewExecution;
use crate::db::{Batcher, Fault, fault, take_message};
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
    pool: PgPool,
    plain: Batcher<Waiting>,
    keyed: Batcher<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    new: NewExecution,
    done: oneshot::Sender<Result<Answer>>,
}

impl Inserter {
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            plain: Batcher::new(),
            keyed: Batcher::new(),
        }
    }

    /// Returns when the execution is committed.
    pub(super) async fn insert(&self, new: NewExecution) -> Result<Answer> {
        let (done, outcome) = oneshot::channel();
        let pool = self.pool.clone();
        let batcher = if new.is_keyed() {
            &self.keyed
        } else {
            &self.plain
        };
        batcher.add(Waiting { new, done }, take_batch, move |batch| {
            write(pool.clone(), batch)
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
async fn write(pool: PgPool, batch: Vec<Waiting>) {
    let (rows, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.new, w.done)).unzip();
    match insert_again(&pool, &rows, false).await {
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
                let _ = caller.send(Err(error.into()));
            }
        }
        Err(_) => {
            for (row, caller) in rows.iter().zip(callers) {
                // The refused statement may have been a repeated one.
                let answers = insert_again(&pool, std::slice::from_ref(row), true).await;
                let answer = answers
                    .map(|answers| answers.first().copied().unwrap_or(Answer::created(row.id)));
                let _ = caller.send(answer.map_err(Error::from));
            }
        }
    }
}

/// Inserts, and again where the connection broke and nobody knows whether it committed: the ids
/// are ours, so nothing is made twice. After a restart of the server each connection of the pool
/// may be a dead one, and each try removes one.
async fn insert_again(
    pool: &PgPool,
    rows: &[NewExecution],
    mut again: bool,
) -> Result<Vec<Answer>, sqlx::Error> {
    for _ in 0..pool.options().get_max_connections() {
        let inserted = async { insert(&mut *pool.acquire().await?, rows, false, again).await };
        match inserted.await {
            Err(error @ sqlx::Error::PoolTimedOut) => return Err(error),
            Err(error) if fault(&error) == Fault::Passing => {
                tracing::debug!(%error, "invoke is sent again");
                again = true;
            }
            other => return other,
        }
    }
    insert(&mut *pool.acquire().await?, rows, false, again).await
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
