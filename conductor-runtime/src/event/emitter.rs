use std::time::Instant;

use conductor_postgres::{Batcher, Database, Fault, OUTAGE, RetryBudget, fault, take_message};
use sqlx::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::new_event::{NewEvent, write_events};
use crate::error::{Error, Result};

/// The most events in one statement.
const MAX_ROWS: usize = 1000;

/// Writes the events of concurrent `emit` calls together.
#[derive(Debug)]
pub(crate) struct Emitter {
    database: Database,
    batcher: Batcher<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    new: NewEvent,
    since: Instant,
    done: oneshot::Sender<Result<()>>,
}

impl Emitter {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            batcher: Batcher::new(),
        }
    }

    /// Returns once the event is committed.
    pub(super) async fn emit(&self, new: NewEvent) -> Result<Uuid> {
        let id = new.id;
        let (done, outcome) = oneshot::channel();
        let database = self.database.clone();
        let since = Instant::now();
        self.batcher
            .add(Waiting { new, since, done }, take_batch, move |batch| {
                write(database.clone(), batch)
            });
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))?;
        Ok(id)
    }
}

fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    take_message(waiting, MAX_ROWS, |waiting| waiting.new.bytes())
}

/// Writes all events in one statement, or, if that is refused, one by one, so that a bad event
/// fails alone.
async fn write(database: Database, batch: Vec<Waiting>) {
    let since = batch.iter().map(|waiting| waiting.since).min();
    let mut budget = RetryBudget::since(since.unwrap_or_else(Instant::now), OUTAGE);
    let (events, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.new, w.done)).unzip();
    match emit_again(&database, &events, &mut budget).await {
        Ok(()) => callers.into_iter().for_each(|caller| {
            let _ = caller.send(Ok(()));
        }),
        Err(error) if events.len() == 1 || fault(&error) == Fault::Passing => {
            let text = error.to_string();
            let mut first = Some(error);
            for caller in callers {
                let error = first
                    .take()
                    .unwrap_or_else(|| sqlx::Error::Protocol(text.clone()));
                let _ = caller.send(Err(budget.over(error).into()));
            }
        }
        Err(_) => {
            for (event, caller) in events.iter().zip(callers) {
                let mut budget = RetryBudget::new(OUTAGE);
                let emitted = emit_again(&database, std::slice::from_ref(event), &mut budget).await;
                let _ = caller.send(emitted.map_err(|error| budget.over(error).into()));
            }
        }
    }
}

/// Emits, and retries if the connection broke and the fate of the commit is unknown. The ids are
/// made here, so a retry emits nothing twice.
async fn emit_again(
    database: &Database,
    events: &[NewEvent],
    budget: &mut RetryBudget,
) -> Result<(), sqlx::Error> {
    loop {
        let emit =
            async |connection: &mut PgConnection| write_events(connection, events, false).await;
        match budget.run(database, emit).await {
            Err(error) if budget.may_retry(&error).await => {}
            other => return other,
        }
    }
}
