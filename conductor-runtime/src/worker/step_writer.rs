use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::store::{Claim, RecordColumns, record_steps};
use conductor_postgres::{
    Batcher, Database, Fault, RetryBudget, Session, fault, is_locked, take_message,
};
use sqlx::{Postgres, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use super::beside::Beside;
use crate::client::Conductor;
use crate::context::Decided;
use crate::error::{Error, Result};

/// The most records in one statement.
const MAX_ROWS: usize = 2000;
/// The pause between tries of a record whose execution is locked. A try itself waits for the lock for a while.
const PAUSE: Duration = Duration::from_millis(100);

/// Writes the step records of many executions together.
#[derive(Debug, Clone)]
pub(crate) struct StepWriter {
    /// Uses connections of the runtime that is separate from the handlers'.
    conductor: Conductor,
    beside: Beside,
    /// The application's pool, for transactions that handlers run themselves.
    application: Database,
    batcher: Batcher<Record>,
    transactions: Arc<Semaphore>,
    /// Held by the one record that waits for a locked execution.
    turn: Arc<Semaphore>,
}

/// A connection for a handler's transaction, with its share of the pool.
#[derive(Debug)]
pub(crate) struct TransactionSlot {
    session: Session,
    begin: String,
    _permit: Option<OwnedSemaphorePermit>,
}

impl TransactionSlot {
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        self.session.transaction(self.begin.clone()).await
    }
}

#[derive(Debug)]
struct Record {
    id: Uuid,
    claim: Claim,
    key: String,
    kind: &'static str,
    value: String,
    decided: Decided,
    done: oneshot::Sender<Result<bool>>,
}

impl StepWriter {
    pub(crate) fn new(conductor: Conductor, application: &Database, beside: Beside) -> Self {
        let most = application.max_connections() / 2;
        Self {
            conductor,
            application: application.clone(),
            batcher: Batcher::on(beside.runtime.clone()),
            beside,
            transactions: Arc::new(Semaphore::new(most.max(1) as usize)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits for a connection for a handler's transaction. At most half of the pool's connections serve these, so
    /// that the application can always get one.
    pub(crate) async fn slot(&self, budget: &mut RetryBudget) -> Result<TransactionSlot> {
        let permit = Arc::clone(&self.transactions).acquire_owned().await.ok();
        let database = &self.application;
        loop {
            match budget.connection(database).await {
                Ok(session) => {
                    return Ok(TransactionSlot {
                        session,
                        begin: database.begin_words(""),
                        _permit: permit,
                    });
                }
                Err(error) => self.again(budget, error).await?,
            }
        }
    }

    /// Returns when it is time to retry, or returns the error if a retry cannot help. The lease ends the handlers of
    /// a process that waits too long.
    pub(crate) async fn again(&self, budget: &mut RetryBudget, error: sqlx::Error) -> Result<()> {
        self.conductor.outage().met(&error);
        match budget.may_retry(&error).await {
            true => Ok(()),
            false => Err(error.into()),
        }
    }

    /// Returns once the record is committed; false if the claim was lost and nothing was written.
    pub(crate) async fn record(
        &self,
        id: Uuid,
        claim: Claim,
        key: &str,
        kind: &'static str,
        value: String,
        decided: Decided,
    ) -> Result<bool> {
        let (done, outcome) = oneshot::channel();
        let record = Record {
            id,
            claim,
            key: key.to_owned(),
            kind,
            value,
            decided,
            done,
        };
        let (conductor, turn) = (self.conductor.clone(), Arc::clone(&self.turn));
        self.batcher.add(record, take_batch, move |batch| {
            let (conductor, turn) = (conductor.clone(), Arc::clone(&turn));
            async move { write(&conductor, &turn, batch).await }
        });
        match outcome.await {
            Ok(written) => written,
            // The orchestrator was dropped, and its handlers are, too: this must not look like a failure.
            Err(_) if self.beside.has_ended() => Ok(false),
            Err(_) => Err(Error::Database(sqlx::Error::WorkerCrashed)),
        }
    }
}

fn take_batch(waiting: &mut Vec<Record>) -> Vec<Record> {
    take_message(waiting, MAX_ROWS, |record| record.value.len())
}

async fn write(conductor: &Conductor, turn: &Arc<Semaphore>, batch: Vec<Record>) {
    match insert(conductor, &batch, false).await {
        Ok(held) => {
            for (record, held) in batch.into_iter().zip(held) {
                match held {
                    // A handler that was dropped no longer waits.
                    Some(held) => drop(record.done.send(Ok(held))),
                    None => {
                        tokio::spawn(write_locked(conductor.clone(), Arc::clone(turn), record));
                    }
                }
            }
        }
        Err(error) if batch.len() == 1 => {
            for record in batch {
                refuse(record, &error);
            }
        }
        // One by one, so that a record that is refused fails alone.
        Err(_) => {
            for record in batch {
                Box::pin(write(conductor, turn, vec![record])).await;
            }
        }
    }
}

fn refuse(record: Record, error: &sqlx::Error) {
    let text = format!("the value of step {:?} was not stored: {error}", record.key);
    let _ = record
        .done
        .send(Err(Error::Database(sqlx::Error::Protocol(text))));
}

/// Writes the record of a locked execution, one record at a time, until it is written or its handler is gone. It
/// queues for the lock, because a query that only tests it may never find it free.
async fn write_locked(conductor: Conductor, turn: Arc<Semaphore>, record: Record) {
    let record = [record];
    loop {
        let permit = turn.acquire().await;
        if record[0].done.is_closed() {
            return;
        }
        let written = insert(&conductor, &record, true).await;
        drop(permit);
        match written {
            Err(error) if is_locked(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                let [record] = record;
                return refuse(record, &error);
            }
            Ok(held) => {
                let [record] = record;
                let held = held.first() == Some(&Some(true));
                return drop(record.done.send(Ok(held)));
            }
        }
    }
}

/// Writes until the database answers; sending a record twice changes nothing. The lease ends the handlers of a
/// process that waits too long.
async fn insert(
    conductor: &Conductor,
    batch: &[Record],
    waits: bool,
) -> Result<Vec<Option<bool>>, sqlx::Error> {
    let records = columns(batch);
    let mut budget = RetryBudget::new(Duration::MAX);
    loop {
        let held = record_steps(&records, waits);
        match budget.ask(conductor.database(), held).await {
            Err(error) if waits && is_locked(&error) => return Err(error),
            Err(error) if fault(&error) == Fault::Passing => {
                conductor.outage().met(&error);
                let unwanted = batch.iter().all(|record| record.done.is_closed());
                if unwanted || !budget.may_retry(&error).await {
                    return Err(error);
                }
            }
            other => return Ok(other?.unwrap_or_default()),
        }
    }
}

fn columns(batch: &[Record]) -> RecordColumns<'_> {
    let mut columns = RecordColumns::default();
    for record in batch {
        columns.ids.push(record.id);
        columns.claims.push(record.claim);
        columns.keys.push(&record.key);
        columns.kinds.push(record.kind);
        columns.values.push(&record.value);
        for key in &record.decided.had {
            columns.had.push(record.id, key);
        }
        for key in &record.decided.withdrawn {
            columns.withdrawn.push(record.id, key);
        }
    }
    columns
}
