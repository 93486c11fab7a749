use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use crate::db::{Batcher, Fault, fault, take_message};
use crate::error::{Error, Result};

/// Most records in one statement.
const MAX_ROWS: usize = 2000;
/// Between tries while the database is away.
const PATIENCE: Duration = Duration::from_millis(250);

/// Writes the step records of many executions together.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    pool: PgPool,
    batcher: Batcher<Record>,
    transactions: Arc<Semaphore>,
}

/// A transaction of a handler, with its share of the pool.
#[derive(Debug)]
pub(crate) struct HandlerTransaction {
    pub(crate) transaction: Transaction<'static, Postgres>,
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Record {
    id: Uuid,
    claim: i32,
    key: String,
    kind: &'static str,
    value: String,
    done: oneshot::Sender<Result<bool>>,
}

impl Recorder {
    pub(crate) fn new(pool: PgPool) -> Self {
        let most = pool.options().get_max_connections() / 2;
        Self {
            pool,
            batcher: Batcher::new(),
            transactions: Arc::new(Semaphore::new(most.max(1) as usize)),
        }
    }

    /// Begins a handler's transaction. No more than half of the pool's connections serve such
    /// ones, so that claims, records and heartbeats always find one.
    pub(crate) async fn begin(&self) -> Result<HandlerTransaction> {
        let permit = Arc::clone(&self.transactions).acquire_owned().await.ok();
        let transaction = self.pool.begin().await?;
        Ok(HandlerTransaction {
            transaction,
            _permit: permit,
        })
    }

    /// Returns when the record is committed; false where the claim was lost and nothing written.
    pub(crate) async fn record(
        &self,
        id: Uuid,
        claim: i32,
        key: &str,
        kind: &'static str,
        value: String,
    ) -> Result<bool> {
        let (done, outcome) = oneshot::channel();
        let record = Record {
            id,
            claim,
            key: key.to_owned(),
            kind,
            value,
            done,
        };
        let pool = self.pool.clone();
        self.batcher.add(record, take_batch, move |batch| {
            let pool = pool.clone();
            async move { write(&pool, batch).await }
        });
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))
    }
}

fn take_batch(waiting: &mut Vec<Record>) -> Vec<Record> {
    take_message(waiting, MAX_ROWS, |record| record.value.len())
}

async fn write(pool: &PgPool, batch: Vec<Record>) {
    match insert(pool, &batch).await {
        Ok(held) => {
            for (record, held) in batch.into_iter().zip(held) {
                // A handler that was dropped no longer waits.
                let _ = record.done.send(Ok(held));
            }
        }
        Err(error) if batch.len() == 1 => {
            for record in batch {
                let _ = record
                    .done
                    .send(Err(Error::Database(sqlx::Error::Protocol(format!(
                        "the value of step {:?} was not stored: {error}",
                        record.key
                    )))));
            }
        }
        // One by one, so that a refused record is refused alone.
        Err(_) => {
            for record in batch {
                Box::pin(write(pool, vec![record])).await;
            }
        }
    }
}

/// Writes until the database answers: a record that is sent twice changes nothing. The lease ends
/// the handlers of a process that waits too long.
async fn insert(pool: &PgPool, batch: &[Record]) -> Result<Vec<bool>, sqlx::Error> {
    let ids: Vec<Uuid> = batch.iter().map(|record| record.id).collect();
    let claims: Vec<i32> = batch.iter().map(|record| record.claim).collect();
    let keys: Vec<&str> = batch.iter().map(|record| record.key.as_str()).collect();
    let kinds: Vec<&str> = batch.iter().map(|record| record.kind).collect();
    let values: Vec<&str> = batch.iter().map(|record| record.value.as_str()).collect();
    loop {
        let held = sqlx::query_scalar("select conductor.record_steps($1, $2, $3, $4, $5)")
            .bind(&ids)
            .bind(&claims)
            .bind(&keys)
            .bind(&kinds)
            .bind(&values)
            .fetch_one(pool)
            .await;
        match held {
            Err(error) if fault(&error) == Fault::Passing => {
                tracing::debug!(%error, records = batch.len(), "step records are sent again");
                if batch.iter().all(|record| record.done.is_closed()) {
                    return Err(error);
                }
                tokio::time::sleep(PATIENCE).await;
            }
            other => return other,
        }
    }
}
