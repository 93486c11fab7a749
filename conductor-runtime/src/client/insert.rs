use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::db::{Fault, fault};
use crate::error::{Error, Result};

/// Most executions in one statement.
pub(super) const MAX_ROWS: usize = 5000;
/// Most bytes of payload in one statement, unless a single payload is larger.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// How often the writer lets others go first between two batches.
const YIELDS: usize = 3;

/// An execution that is about to be.
#[derive(Debug, Clone)]
pub(super) struct NewExecution {
    pub(super) id: Uuid,
    pub(super) task: String,
    pub(super) payload: String,
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) delay_ms: Option<i64>,
    pub(super) priority: Option<i32>,
}

/// Writes the executions of concurrent `invoke` calls together: while one statement is under way,
/// the next batch gathers by itself. No timer, so a lone call is written at once.
#[derive(Debug)]
pub(super) struct Inserter {
    pool: PgPool,
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Debug, Default)]
struct Gathered {
    waiting: Vec<Waiting>,
    writing: bool,
}

#[derive(Debug)]
struct Waiting {
    new: NewExecution,
    done: oneshot::Sender<Result<()>>,
}

impl Inserter {
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            gathered: Arc::default(),
        }
    }

    /// Returns when the execution is committed.
    pub(super) async fn insert(&self, new: NewExecution) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        let start = {
            let mut gathered = lock(&self.gathered);
            gathered.waiting.push(Waiting { new, done });
            !mem::replace(&mut gathered.writing, true)
        };
        if start {
            // A task of its own: a caller that is dropped must not take the others' batch along.
            tokio::spawn(write_all(self.pool.clone(), Arc::clone(&self.gathered)));
        }
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}

/// While it lives somebody writes. Should the writer end before its work, by a panic or with the
/// runtime that it ran on, the callers are told and the next one starts another.
struct Writing(Option<Arc<Mutex<Gathered>>>);

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(gathered) = &self.0 {
            let mut gathered = lock(gathered);
            gathered.writing = false;
            gathered.waiting.clear();
        }
    }
}

async fn write_all(pool: PgPool, gathered: Arc<Mutex<Gathered>>) {
    let mut writing = Writing(Some(Arc::clone(&gathered)));
    loop {
        let batch = {
            let mut gathered = lock(&gathered);
            if gathered.waiting.is_empty() {
                gathered.writing = false;
                writing.0 = None;
                return;
            }
            take_batch(&mut gathered.waiting)
        };
        write(&pool, batch).await;
        // The callers that have just been answered may have their next one ready at once; with
        // them the next batch is whole instead of every second one being half.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    }
}

fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut bytes = 0;
    let fits = waiting
        .iter()
        .take(MAX_ROWS)
        .take_while(|waiting| {
            bytes += waiting.new.payload.len();
            bytes <= MAX_BYTES
        })
        .count();
    let rest = waiting.split_off(fits.max(1));
    mem::replace(waiting, rest)
}

/// One statement for all; where it is refused, one for each, so that a bad one is refused alone.
async fn write(pool: &PgPool, batch: Vec<Waiting>) {
    let (rows, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.new, w.done)).unzip();
    match insert_again(pool, &rows).await {
        // A caller that no longer waits has its execution all the same.
        Ok(()) => callers.into_iter().for_each(|caller| {
            let _ = caller.send(Ok(()));
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
                let outcome = insert_again(pool, std::slice::from_ref(row)).await;
                let _ = caller.send(outcome.map_err(Error::from));
            }
        }
    }
}

/// Inserts, and again where the connection broke and nobody knows whether it committed: the ids
/// are ours, so nothing is made twice. After a restart of the server each connection of the pool
/// may be a dead one, and each try removes one.
async fn insert_again(pool: &PgPool, rows: &[NewExecution]) -> Result<(), sqlx::Error> {
    let mut again = false;
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

/// The statement itself, on any connection.
pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[NewExecution],
    in_transaction: bool,
    again: bool,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let tasks: Vec<&str> = rows.iter().map(|row| row.task.as_str()).collect();
    let payloads: Vec<&str> = rows.iter().map(|row| row.payload.as_str()).collect();
    let run_at: Vec<Option<DateTime<Utc>>> = rows.iter().map(|row| row.run_at).collect();
    let delays: Vec<Option<i64>> = rows.iter().map(|row| row.delay_ms).collect();
    let priorities: Vec<Option<i32>> = rows.iter().map(|row| row.priority).collect();
    sqlx::query("select conductor.invoke_many($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(ids)
        .bind(tasks)
        .bind(payloads)
        .bind(run_at)
        .bind(delays)
        .bind(priorities)
        .bind(in_transaction)
        .bind(again)
        .execute(connection)
        .await
        .map(drop)
}

fn lock(gathered: &Mutex<Gathered>) -> std::sync::MutexGuard<'_, Gathered> {
    gathered.lock().unwrap_or_else(PoisonError::into_inner)
}
