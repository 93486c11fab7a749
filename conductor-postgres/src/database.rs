use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres};

use super::begin::{AFRESH, begin_own};
use super::fault::refusal;
use super::read_only::Purged;
use super::{ReadOnly, Session};

/// How often two connections are compared. If several programs connect at the same time, a pooler with few sessions
/// may give each of them a session of its own for a while.
const LOOKS: usize = 5;

/// The connections to the server: direct, or through a pooler that assigns a server session to one transaction at a
/// time (PgBouncer's mode `transaction`).
///
/// The driver prepares a statement and runs it in two round trips, which such a pooler may send to two sessions.
/// Therefore everything is in a transaction there, and no statement stays prepared.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    /// A pool whose connections work through a pooler, once one was detected.
    through: Arc<OnceLock<PgPool>>,
    read_only: Arc<ReadOnly>,
    purged: Arc<Purged>,
    /// For a separate set of connections, the pool whose options they follow.
    like: Option<Arc<Like>>,
}

/// The pool whose options another one follows: the application may replace them, for example if its passwords are
/// valid only for minutes.
#[derive(Debug)]
struct Like {
    pool: PgPool,
    seen: Mutex<Arc<PgConnectOptions>>,
}

impl Like {
    fn of(pool: &PgPool) -> Self {
        Self {
            seen: Mutex::new(pool.connect_options()),
            pool: pool.clone(),
        }
    }

    /// Returns the new options if they were replaced since the last call.
    fn exchanged(&self) -> Option<PgConnectOptions> {
        let now = self.pool.connect_options();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&now, &seen) {
            return None;
        }
        *seen = Arc::clone(&now);
        Some((*now).clone())
    }
}

/// Returns a separate pool with the options of another one.
fn alike(pool: &PgPool, most: u32) -> PgPool {
    pool.options()
        .clone()
        .min_connections(0)
        .max_connections(most)
        .connect_lazy_with((*pool.connect_options()).clone())
}

impl Database {
    /// Creates it over a pool, which may lead through a pooler.
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            through: Arc::default(),
            read_only: Arc::default(),
            purged: Arc::default(),
            like: None,
        }
    }

    /// Returns separate connections to the same server: at most `most`, and at most as many as this one has. They
    /// belong to the runtime in which this is called, so that what blocks another runtime does not delay them.
    pub fn apart(&self, most: u32) -> Self {
        let most = most.min(self.max_connections()).max(1);
        let through = self.through.get().map(|pool| alike(pool, most));
        Self {
            pool: alike(&self.pool, most),
            through: Arc::new(through.map(OnceLock::from).unwrap_or_default()),
            read_only: Arc::clone(&self.read_only),
            purged: Arc::default(),
            like: Some(Arc::new(Like::of(&self.pool))),
        }
    }

    /// Closes the connections, waiting for those in use until the deadline.
    pub async fn close(&self, deadline: Duration) {
        let close = async { tokio::join!(self.working().close(), self.pool.close()) };
        let _ = tokio::time::timeout(deadline, close).await;
    }

    /// Waits until no statement runs on these connections, at most until the deadline.
    pub async fn come_to_rest(&self, deadline: Duration) {
        let rest = async {
            // A connection is idle again when the answer to its last statement has been read.
            while self.working().num_idle() < self.working().size() as usize {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(deadline, rest).await;
    }

    /// Returns the application's pool.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Returns the pool for the library's statements.
    fn working(&self) -> &PgPool {
        self.through.get().unwrap_or(&self.pool)
    }

    /// Returns the options of the connections that the library uses.
    pub fn options(&self) -> PgConnectOptions {
        self.follow();
        (*self.working().connect_options()).clone()
    }

    /// Returns how many connections the library may use at once.
    pub fn max_connections(&self) -> u32 {
        self.working().options().get_max_connections()
    }

    /// Returns whether at least half of the pool's connections are free.
    pub fn has_plenty(&self) -> bool {
        let pool = self.working();
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        let taken = pool.size().saturating_sub(idle);
        taken <= self.max_connections() / 2
    }

    /// Returns whether the pool was closed.
    pub fn is_closed(&self) -> bool {
        self.working().is_closed()
    }

    /// Returns whether sessions last only for a transaction, so that LISTEN is not available.
    pub fn is_through_pooler(&self) -> bool {
        self.through.get().is_some()
    }

    /// Detects a pooler: two connections that share one session, or one connection that gets several sessions in
    /// turn, as with other clients.
    pub async fn look_for_pooler(&self) -> Result<(), sqlx::Error> {
        let options = fit_for_pooler((*self.pool.connect_options()).clone());
        let mut first = self.pool.acquire().await?;
        let Ok(mut second) = PgConnection::connect_with(&options).await else {
            // No more sessions for this role, or the server is shutting down: the first statement will report it.
            return Ok(());
        };
        let mut seen: Option<(i32, i32)> = None;
        for _ in 0..LOOKS {
            let now = (
                session_of(&mut first).await?,
                session_of(&mut second).await?,
            );
            if now.0 == now.1 || *seen.get_or_insert(now) != now {
                tracing::info!(
                    "the database is reached through a transaction pooler: new work is found by polling, unless CONDUCTOR_LISTEN_URL names a direct way"
                );
                let pool = PgPoolOptions::new()
                    .max_connections(self.pool.options().get_max_connections())
                    .acquire_timeout(self.pool.options().get_acquire_timeout())
                    .test_before_acquire(false)
                    .connect_lazy_with(options);
                let _ = self.through.set(pool);
                break;
            }
        }
        let _ = second.close().await;
        Ok(())
    }

    /// Returns a connection for several statements.
    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        let session = self.connection().await?;
        self.ready(session).await
    }

    /// Begins the transaction that every statement needs if it goes through a pooler.
    pub async fn ready(&self, mut session: Session) -> Result<Session, sqlx::Error> {
        if self.is_through_pooler() {
            session.begin(begin_own()).await?;
        }
        Ok(session)
    }

    /// Begins a transaction of this mode, such as `read only`.
    pub async fn begin_as(&self, mode: &str) -> Result<Session, sqlx::Error> {
        let mut session = self.connection().await?;
        session.begin(self.begin_words(mode)).await?;
        Ok(session)
    }

    /// Returns a connection without a transaction.
    pub async fn connection(&self) -> Result<Session, sqlx::Error> {
        self.follow();
        if self.read_only.is_wary() {
            self.writing_connection().await
        } else {
            self.any_connection().await
        }
    }

    async fn any_connection(&self) -> Result<Session, sqlx::Error> {
        let connection = self.working().acquire().await?;
        Ok(self.session_on(connection))
    }

    fn session_on(&self, connection: PoolConnection<Postgres>) -> Session {
        let read_only = Arc::clone(&self.read_only);
        Session::new(connection, self.is_through_pooler(), read_only)
    }

    /// Returns a connection that can write, if one was recently met that could not.
    async fn writing_connection(&self) -> Result<Session, sqlx::Error> {
        if self.read_only.purges(&self.purged) {
            tokio::spawn(self.clone().purge());
        }
        let mut fault = None;
        // After the idle ones the pool opens a new one, which shows where the address leads now.
        for _ in 0..=self.working().num_idle() {
            let mut session = self.any_connection().await?;
            match session.can_write().await {
                Ok(true) => return Ok(session),
                Ok(false) => fault = None,
                // A broken connection tells nothing about the next one.
                Err(error) => fault = Some(error),
            }
        }
        Err(fault.unwrap_or_else(refusal))
    }

    /// Closes the idle connections that cannot write.
    async fn purge(self) {
        // Kept until the end: a connection that is put back at once would be acquired again.
        let mut good = Vec::new();
        while let Some(connection) = self.working().try_acquire() {
            let mut session = self.session_on(connection);
            // One that does not answer is closed as well, at once, because a caller may wait for its place.
            if matches!(session.can_write().await, Ok(true)) {
                good.push(session);
            }
        }
    }

    /// Returns what is known of connections that cannot write.
    pub fn read_only(&self) -> &Arc<ReadOnly> {
        &self.read_only
    }

    fn follow(&self) {
        if let Some(options) = self.like.as_ref().and_then(|like| like.exchanged()) {
            if let Some(through) = self.through.get() {
                through.set_connect_options(fit_for_pooler(options.clone()));
            }
            self.pool.set_connect_options(options);
        }
    }

    /// Returns the words that begin a transaction of this mode.
    pub fn begin_words(&self, mode: &str) -> String {
        let also = if self.is_through_pooler() { AFRESH } else { "" };
        format!("begin {mode}{also}")
    }
}

/// Returns options that a pooler with the most basic configuration accepts.
fn fit_for_pooler(options: PgConnectOptions) -> PgConnectOptions {
    options.statement_cache_capacity(0).extra_float_digits(None)
}

/// Returns the server session that a connection has at the moment.
async fn session_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    use sqlx::Row;
    sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}
