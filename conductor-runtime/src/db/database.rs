use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres};

use super::read_only::{Purged, refusal};
use super::{ReadOnly, Session};

/// How often two connections are compared. Where several programs connect at the same time, a pooler of
/// few sessions may show each of them a session of its own for a while.
const LOOKS: usize = 5;
/// A pooler may have prepared something under one of the driver's names for somebody else.
const AFRESH: &str = "; deallocate all";
/// A process that is frozen between begin and commit would keep what it has locked for as long as it is frozen.
const BRIEF: &str = "; set local idle_in_transaction_session_timeout = '10s'";

/// The way to the server: straight, or through a pooler that has a server's session for us for one
/// transaction only (PgBouncer's mode `transaction`).
///
/// The driver prepares a statement and runs it in two round trips, which such a pooler may send to two
/// sessions. So everything is a transaction there, and nothing stays prepared.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: PgPool,
    /// A pool of connections that are fit for a pooler, once one was found.
    through: Arc<OnceLock<PgPool>>,
    read_only: Arc<ReadOnly>,
    purged: Arc<Purged>,
    /// Of connections of its own, the one whose options they go by.
    like: Option<Arc<Like>>,
}

/// The pool by whose options another one opens its connections: the application may exchange them, as where
/// passwords last for minutes only.
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

    /// The new options, where they were exchanged since the last look.
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

/// A pool of connections of its own, opened as those of another one are.
fn alike(pool: &PgPool, most: u32) -> PgPool {
    pool.options()
        .clone()
        .min_connections(0)
        .max_connections(most)
        .connect_lazy_with((*pool.connect_options()).clone())
}

impl Database {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            through: Arc::default(),
            read_only: Arc::default(),
            purged: Arc::default(),
            like: None,
        }
    }

    /// Another way to the same server, with at most so many connections and no more than this one. They
    /// belong to the runtime in which this is called: what blocks another one does not hold them up.
    pub(crate) fn apart(&self, most: u32) -> Self {
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

    /// Ends the connections, waiting for those in use until the deadline.
    pub(crate) async fn close(&self, deadline: Duration) {
        let close = async { tokio::join!(self.working().close(), self.pool.close()) };
        let _ = tokio::time::timeout(deadline, close).await;
    }

    /// The application's pool.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The pool that the work goes through.
    fn working(&self) -> &PgPool {
        self.through.get().unwrap_or(&self.pool)
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.follow();
        (*self.working().connect_options()).clone()
    }

    pub(crate) fn max_connections(&self) -> u32 {
        self.working().options().get_max_connections()
    }

    /// Whether at least half of the pool's connections are free to be had.
    pub(crate) fn has_plenty(&self) -> bool {
        let pool = self.working();
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        let taken = pool.size().saturating_sub(idle);
        taken <= self.max_connections() / 2
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.working().is_closed()
    }

    /// Whether sessions last for a transaction only, so that LISTEN is not to be had.
    pub(crate) fn is_through_pooler(&self) -> bool {
        self.through.get().is_some()
    }

    /// Finds out whether a pooler lies between: two connections that have one session between them, or one
    /// that has several in turn, as where others come between.
    pub(crate) async fn look_for_pooler(&self) -> Result<(), sqlx::Error> {
        let options = fit_for_pooler((*self.pool.connect_options()).clone());
        let mut first = self.pool.acquire().await?;
        let Ok(mut second) = PgConnection::connect_with(&options).await else {
            // No more sessions for this role, or the server is going down: the work will tell.
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

    /// A connection for several statements.
    pub(crate) async fn session(&self) -> Result<Session, sqlx::Error> {
        let session = self.connection().await?;
        self.ready(session).await
    }

    /// Begins the transaction that everything needs where it goes through a pooler.
    pub(crate) async fn ready(&self, mut session: Session) -> Result<Session, sqlx::Error> {
        if self.is_through_pooler() {
            session.begin(begin_own()).await?;
        }
        Ok(session)
    }

    /// Begins a transaction of this mode, such as `read only`.
    pub(crate) async fn begin_as(&self, mode: &str) -> Result<Session, sqlx::Error> {
        let mut session = self.connection().await?;
        session.begin(self.begin_words(mode)).await?;
        Ok(session)
    }

    /// A connection on which nothing was begun.
    pub(crate) async fn connection(&self) -> Result<Session, sqlx::Error> {
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

    /// A connection that can write, where there was one lately that could not.
    async fn writing_connection(&self) -> Result<Session, sqlx::Error> {
        if self.read_only.purges(&self.purged) {
            tokio::spawn(self.clone().purge());
        }
        let mut fault = None;
        // Behind the idle ones comes a new one, which tells where the way leads now.
        for _ in 0..=self.working().num_idle() {
            let mut session = self.any_connection().await?;
            match self.read_only.can_write(&mut session).await {
                Ok(true) => return Ok(session),
                Ok(false) => fault = None,
                // A dead one says nothing of the next.
                Err(error) => fault = Some(error),
            }
        }
        Err(fault.unwrap_or_else(refusal))
    }

    /// Closes the idle connections that cannot write.
    async fn purge(self) {
        // Put back at once, they would be met again.
        let mut good = Vec::new();
        while let Some(connection) = self.working().try_acquire() {
            let mut session = self.session_on(connection);
            // One that does not answer is closed as well, and now: somebody may wait for its place.
            if matches!(self.read_only.can_write(&mut session).await, Ok(true)) {
                good.push(session);
            }
        }
    }

    /// What is known of connections that cannot write.
    pub(crate) fn read_only(&self) -> &Arc<ReadOnly> {
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

    pub(crate) fn begin_words(&self, mode: &str) -> String {
        let also = if self.is_through_pooler() { AFRESH } else { "" };
        format!("begin {mode}{also}")
    }
}

/// Through a pooler, for statements of our own. A handler's transaction may take its time.
pub(super) fn begin_own() -> String {
    format!("begin{AFRESH}{BRIEF}")
}

/// What a pooler of the plainest configuration lets through.
fn fit_for_pooler(options: PgConnectOptions) -> PgConnectOptions {
    options.statement_cache_capacity(0).extra_float_digits(None)
}

/// The server's session that a connection has just now.
async fn session_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    use sqlx::Row;
    sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}
