use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::db::{Batcher, Fault, fault, take_message};
use crate::error::{Error, Result};

/// Most executions in one statement.
pub(super) const MAX_ROWS: usize = 5000;

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

impl NewExecution {
    /// About how much it adds to a message.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.task.len() + 64
    }
}

/// Writes the executions of concurrent `invoke` calls together.
#[derive(Debug)]
pub(super) struct Inserter {
    pool: PgPool,
    batcher: Batcher<Waiting>,
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
            batcher: Batcher::new(),
        }
    }

    /// Returns when the execution is committed.
    pub(super) async fn insert(&self, new: NewExecution) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        let pool = self.pool.clone();
        self.batcher
            .add(Waiting { new, done }, take_batch, move |batch| {
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
    match insert_again(&pool, &rows).await {
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
                let outcome = insert_again(&pool, std::slice::from_ref(row)).await;
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
