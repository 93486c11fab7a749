use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::fault::{is_read_only, silence};
use super::timings::ANSWER;
use super::{Alone, Database, Fault, Session, fault, is_lasting, no_answer};
use crate::error::Error;

/// The pauses between tries.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];
/// How long the first try may take, so that there is time for tries on other connections.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a pooled connection may take to show that it works.
const PING: Duration = Duration::from_secs(1);
/// What has waited this long has probably waited because of a fault.
const PROMPT: Duration = Duration::from_secs(1);

/// Retries at growing intervals, for a limited time.
#[derive(Debug)]
pub struct RetryBudget {
    began: Instant,
    most: Duration,
    tries: usize,
    /// Whether the last session could not write.
    read_only: bool,
}

impl RetryBudget {
    /// Retries for at most `most`; [`Duration::MAX`] for a worker, which retries until it loses its lease.
    pub fn new(most: Duration) -> Self {
        Self::since(Instant::now(), most)
    }

    /// Retries until `most` after `began`.
    pub fn since(began: Instant, most: Duration) -> Self {
        let tries = 0;
        Self {
            began,
            most,
            tries,
            read_only: false,
        }
    }

    /// Runs a statement alone until it succeeds, its error cannot be retried, or the time is over. Returns the first
    /// row, if there is any.
    pub async fn retry<S: Alone>(
        mut self,
        database: &Database,
        statement: impl Fn() -> S,
    ) -> Result<Option<S::Row>, Error> {
        loop {
            match self.ask(database, statement()).await {
                Ok(row) => return Ok(row),
                Err(error) if self.may_retry(&error).await => {}
                Err(error) => return Err(self.over(error)),
            }
        }
    }

    /// Returns false if the error cannot be retried; otherwise returns true when it is time to retry.
    pub async fn may_retry(&mut self, error: &sqlx::Error) -> bool {
        let bounded = self.most < Duration::MAX;
        if fault(error) != Fault::Passing
            || matches!(error, sqlx::Error::PoolClosed)
            || bounded && (is_lasting(error) || self.began.elapsed() >= self.most)
        {
            return false;
        }
        tracing::debug!(%error, "sent again");
        self.read_only = is_read_only(error);
        tokio::time::sleep(PAUSES[self.tries.min(PAUSES.len() - 1)]).await;
        self.tries += 1;
        true
    }

    /// Returns a session; after a fault, one that has been tested.
    pub async fn session(&self, database: &Database) -> Result<Session, sqlx::Error> {
        let session = self.connection(database).await?;
        database.ready(session).await
    }

    /// Returns the same, without a transaction.
    pub async fn connection(&self, database: &Database) -> Result<Session, sqlx::Error> {
        if self.read_only {
            database.read_only().seen();
        }
        if self.tries == 0 && self.began.elapsed() < PROMPT {
            database.connection().await
        } else {
            living(database).await
        }
    }

    /// Runs one try of a statement, and returns the first row, if there is any.
    pub async fn ask<S: Alone>(
        &self,
        database: &Database,
        statement: S,
    ) -> Result<Option<S::Row>, sqlx::Error> {
        let session = self.session(database).await?;
        let asked = tokio::time::timeout(self.answer(), statement.optional_in(session)).await;
        asked.unwrap_or_else(|_| Err(silence()))
    }

    /// Runs one try of a call in a session, and commits.
    pub async fn run<T>(
        &self,
        database: &Database,
        call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut session = self.session(database).await?;
        let done = tokio::time::timeout(self.answer(), call(&mut session)).await;
        match done {
            Ok(done) => session.settle(done).await,
            Err(_) => Err(no_answer(&mut session)),
        }
    }

    /// Returns how long this try may take.
    pub fn answer(&self) -> Duration {
        if self.tries == 0 {
            FIRST_ANSWER
        } else {
            ANSWER
        }
    }

    /// Returns the error for the caller if there is no further try.
    pub fn over(&self, error: sqlx::Error) -> Error {
        match fault(&error) {
            Fault::Passing if !is_lasting(&error) && !matches!(error, sqlx::Error::PoolClosed) => {
                Error::Unavailable {
                    waited: self.began.elapsed(),
                    reason: error.to_string(),
                    source: Arc::new(error),
                }
            }
            _ => Error::Database(error),
        }
    }
}

/// Returns a connection that has been tested, without a transaction: after a restart of the server, those in the pool
/// may be broken.
pub async fn living(database: &Database) -> Result<Session, sqlx::Error> {
    loop {
        let mut session = database.connection().await?;
        match tokio::time::timeout(PING, session.ping()).await {
            Ok(Ok(())) => return Ok(session),
            Ok(Err(error)) => tracing::debug!(%error, "a dead connection is put away"),
            Err(_) => session.close_on_drop(),
        }
    }
}
