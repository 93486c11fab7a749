use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection, Transaction};

use super::ReadOnly;
use super::begin::begin_own;
use super::fault::{is_read_only, silence};
use super::timings::ANSWER;

/// How long a connection may take to begin a transaction, and to return to the pool.
const BEGIN: Duration = Duration::from_secs(10);
const GIVE_BACK: Duration = Duration::from_secs(5);
/// How long a session may take to answer whether it can write.
const ASKED: Duration = Duration::from_secs(1);
/// How long a connection may be reused without returning to the pool.
const KEEP: Duration = Duration::from_secs(60);

/// A pooled connection for several statements, to be [ended](Self::end) or [settled](Self::settle). If it is dropped
/// within a transaction, it is closed, which rolls back.
///
/// The pool itself would wait forever for a returned connection that does not answer, and have one fewer for others;
/// this type closes such a connection.
#[derive(Debug)]
pub struct Session {
    connection: PoolConnection<Postgres>,
    /// Whether it goes through a pooler, so that everything is in a transaction.
    through: bool,
    /// Whether a transaction of this type is open.
    open: bool,
    given_up: bool,
    taken: Instant,
    read_only: Arc<ReadOnly>,
}

impl Session {
    pub(crate) fn new(
        connection: PoolConnection<Postgres>,
        through: bool,
        read_only: Arc<ReadOnly>,
    ) -> Self {
        Self {
            connection,
            through,
            open: false,
            given_up: false,
            taken: Instant::now(),
            read_only,
        }
    }

    /// Begins a transaction with these words.
    pub async fn begin(&mut self, words: String) -> Result<(), sqlx::Error> {
        self.open = true;
        let begun = sqlx::raw_sql(AssertSqlSafe(words)).execute(&mut *self.connection);
        match tokio::time::timeout(BEGIN, begun).await {
            Ok(begun) => begun.map(drop),
            Err(_) => Err(no_answer(self)),
        }
    }

    /// Begins a transaction for code that may nest others, as savepoints.
    pub async fn transaction(
        &mut self,
        words: String,
    ) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        // The driver marks it as open only after the answer; if the call is dropped before, it may be open.
        self.open = true;
        let begun = self.connection.begin_with(AssertSqlSafe(words));
        let transaction = match tokio::time::timeout(BEGIN, begun).await {
            Ok(begun) => begun?,
            Err(_) => return Err(silence()),
        };
        self.open = false;
        Ok(transaction)
    }

    /// Commits, if there is a transaction.
    pub async fn end(&mut self) -> Result<(), sqlx::Error> {
        if self.open {
            let commit = sqlx::raw_sql("commit").execute(&mut *self.connection);
            match tokio::time::timeout(ANSWER, commit).await {
                Ok(done) => done.map(drop)?,
                Err(_) => return Err(no_answer(self)),
            }
            self.open = false;
        }
        Ok(())
    }

    /// Commits if `done` is `Ok`, and rolls back otherwise, if there is a transaction.
    pub async fn settle<T, E: From<sqlx::Error>>(mut self, done: Result<T, E>) -> Result<T, E> {
        if done.is_ok() {
            self.end().await?;
        } else if self.open {
            let undo = sqlx::raw_sql("rollback").execute(&mut *self.connection);
            // If the rollback fails, dropping the session closes the connection.
            if let Ok(Ok(_)) = tokio::time::timeout(GIVE_BACK, undo).await {
                self.open = false;
            }
        }
        done
    }

    /// Commits what was done so far, if there is a transaction, and begins another one.
    pub async fn separate(&mut self) -> Result<(), sqlx::Error> {
        if self.through {
            sqlx::raw_sql(AssertSqlSafe(format!("commit; {}", begin_own())))
                .execute(&mut *self.connection)
                .await?;
        }
        Ok(())
    }

    /// Returns whether it may be kept: the pool must get each connection from time to time, to renew it.
    pub fn is_young(&self) -> bool {
        self.taken.elapsed() < KEEP
    }

    /// Returns whether nothing is in progress on it.
    pub fn is_at_rest(&self) -> bool {
        !self.open && !self.given_up
    }

    /// Notes a statement's error: a session that refuses writes is closed, so that it is not used again.
    pub(crate) fn heed<T>(&mut self, answer: &Result<T, sqlx::Error>) {
        if let Err(error) = answer
            && is_read_only(error)
        {
            self.read_only.seen();
            self.close_on_drop();
        }
    }

    /// Returns whether it can write. Closes it if it cannot or does not answer.
    pub(crate) async fn can_write(&mut self) -> Result<bool, sqlx::Error> {
        use sqlx::Row;
        let asked = sqlx::raw_sql(
            "select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off'",
        )
        .fetch_one(&mut *self.connection);
        let said = match tokio::time::timeout(ASKED, asked).await {
            Ok(Ok(row)) => row.try_get(0),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(silence()),
        };
        match said {
            Ok(true) => return Ok(true),
            Ok(false) => self.read_only.tested(),
            Err(_) => {}
        }
        self.close_on_drop();
        said
    }

    /// Closes the connection on drop. For one whose statement may still be running.
    pub fn close_on_drop(&mut self) {
        self.given_up = true;
        self.connection.close_on_drop();
    }

    pub(crate) fn flight(&mut self) -> Flight<'_> {
        Flight {
            session: self,
            landed: false,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.given_up {
            return;
        }
        if self.open {
            self.connection.close_on_drop();
            return;
        }
        let back = self.connection.return_to_pool();
        // Without a runtime nothing can use the connection any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async { tokio::time::timeout(GIVE_BACK, back).await });
        }
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A statement in progress. If it is dropped early, its connection is closed, so that nothing waits for its end.
pub(crate) struct Flight<'s> {
    session: &'s mut Session,
    pub(crate) landed: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.landed {
            self.session.close_on_drop();
        }
    }
}

impl Deref for Flight<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.session
    }
}

impl DerefMut for Flight<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.session
    }
}

/// Returns the error of a statement that took too long, and closes its connection, because it may still be running.
pub fn no_answer(session: &mut Session) -> sqlx::Error {
    session.close_on_drop();
    silence()
}
