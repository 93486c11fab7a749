use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection, Transaction};

use super::ReadOnly;
use super::database::begin_own;
use super::patience::ANSWER;
use super::read_only::is_read_only;

/// How long a connection may take to begin a transaction, and to come back to the pool.
const BEGIN: Duration = Duration::from_secs(10);
const GIVE_BACK: Duration = Duration::from_secs(5);
/// How long one may be used again and again without the pool.
const KEEP: Duration = Duration::from_secs(60);

/// A connection of the pool for several statements, to be [ended](Self::end) or [settled](Self::settle).
/// Dropped within a transaction it is closed, which undoes what was done.
///
/// The pool by itself waits without end for a connection that comes back and does not answer, and has
/// one fewer for others; this one is given up.
#[derive(Debug)]
pub(crate) struct Session {
    connection: PoolConnection<Postgres>,
    /// Through a pooler everything is in a transaction.
    through: bool,
    /// In a transaction of ours.
    open: bool,
    given_up: bool,
    taken: Instant,
    read_only: Arc<ReadOnly>,
}

impl Session {
    pub(super) fn new(
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

    pub(crate) async fn begin(&mut self, words: String) -> Result<(), sqlx::Error> {
        self.open = true;
        let begun = sqlx::raw_sql(AssertSqlSafe(words)).execute(&mut *self.connection);
        match tokio::time::timeout(BEGIN, begun).await {
            Ok(begun) => begun.map(drop),
            Err(_) => Err(no_answer(self)),
        }
    }

    /// A transaction for code that may begin others in it, which are savepoints.
    pub(crate) async fn transaction(
        &mut self,
        words: String,
    ) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        // The driver knows of it when the answer is there: given up before, it may be open all the same.
        self.open = true;
        let begun = self.connection.begin_with(AssertSqlSafe(words));
        let transaction = match tokio::time::timeout(BEGIN, begun).await {
            Ok(begun) => begun?,
            Err(_) => return Err(silence()),
        };
        self.open = false;
        Ok(transaction)
    }

    /// Commits what was done, where it is a transaction.
    pub(crate) async fn end(&mut self) -> Result<(), sqlx::Error> {
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

    /// Commits what was done where it went well, and else undoes it, where it is a transaction.
    pub(crate) async fn settle<T, E: From<sqlx::Error>>(
        mut self,
        done: Result<T, E>,
    ) -> Result<T, E> {
        if done.is_ok() {
            self.end().await?;
        } else if self.open {
            let undo = sqlx::raw_sql("rollback").execute(&mut *self.connection);
            // What was not undone in time is with the connection.
            if let Ok(Ok(_)) = tokio::time::timeout(GIVE_BACK, undo).await {
                self.open = false;
            }
        }
        done
    }

    /// Commits what was done so far, where it is a transaction: what follows is one of its own.
    pub(crate) async fn separate(&mut self) -> Result<(), sqlx::Error> {
        if self.through {
            sqlx::raw_sql(AssertSqlSafe(format!("commit; {}", begin_own())))
                .execute(&mut *self.connection)
                .await?;
        }
        Ok(())
    }

    /// Whether it may be kept: the pool has to see each of its connections from time to time, to renew it.
    pub(crate) fn is_young(&self) -> bool {
        self.taken.elapsed() < KEEP
    }

    /// Whether nothing is under way in it.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.open && !self.given_up
    }

    /// Takes note of what a statement met: a session that takes no writes is closed, so that nobody else gets it.
    pub(super) fn heed<T>(&mut self, answer: &Result<T, sqlx::Error>) {
        if let Err(error) = answer
            && is_read_only(error)
        {
            self.read_only.seen();
            self.close_on_drop();
        }
    }

    /// For one whose statement may still be under way: nobody else gets this connection.
    pub(crate) fn close_on_drop(&mut self) {
        self.given_up = true;
        self.connection.close_on_drop();
    }

    pub(super) fn flight(&mut self) -> Flight<'_> {
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
        // Without a runtime nobody wants it any more.
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

/// A statement under way. Given up, it takes its connection along, so that nobody else waits for its end.
pub(super) struct Flight<'s> {
    session: &'s mut Session,
    pub(super) landed: bool,
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

/// The error of a statement that took too long. It may still be under way, so nobody else must get its
/// connection.
pub(crate) fn no_answer(session: &mut Session) -> sqlx::Error {
    session.close_on_drop();
    silence()
}

pub(super) fn silence() -> sqlx::Error {
    sqlx::Error::Protocol("no answer in time".to_owned())
}
