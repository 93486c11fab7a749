//! The leases of orchestrators.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, PgDatabaseError, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row, Transaction};

use crate::sqlstate::SCHEMA_TOO_NEW;
use crate::{Database, RetryBudget, latest_version};

/// The mode of a transaction that takes a lease. In a stricter mode, the query for newer migrations
/// would use a snapshot that is older than the lock.
pub const MODE: &str = "isolation level read committed read write";

/// What an orchestrator registers about itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The name of its host.
    pub host: String,
    /// Its process id.
    pub pid: i32,
    /// The queues that it serves.
    pub queue_ids: Vec<i32>,
    /// The tasks of these queues that it knows.
    pub task_ids: Vec<i32>,
    /// The schedules that its code declares.
    pub schedule_ids: Vec<i64>,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// Whether the lease was still held. It is renewed if it was.
    pub held: bool,
    /// The breaking migration for which processes must end, if one is about to be applied.
    pub drain_for: Option<i32>,
}

/// Begins a transaction with these words, on a connection that is in no pool.
pub async fn begin(
    connection: &mut PgConnection,
    words: String,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with(AssertSqlSafe(words)).await
}

/// Takes a lease under a new id, in a transaction of mode [`MODE`].
pub async fn start(
    connection: &mut PgConnection,
    identity: &Identity,
    lease: Duration,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select conductor.start_orchestrator(
        p_host => $1, p_pid => $2, p_queues => $3, p_tasks => $4, p_lease => $5, p_schedules => $6,
        p_version => $7)",
    )
    .bind(&identity.host)
    .bind(identity.pid)
    .bind(&identity.queue_ids)
    .bind(&identity.task_ids)
    .bind(interval(lease))
    .bind(&identity.schedule_ids)
    .bind(latest_version())
    .fetch_one(connection)
    .await
}

/// Renews a lease. `begin` is how a transaction begins on this connection.
///
/// All of it is one message: a process that is frozen between begin and commit would keep its row
/// locked, and other processes could not recover what it holds.
pub async fn renew(
    connection: &mut PgConnection,
    begin: &str,
    id: i64,
    lease: Duration,
) -> Result<Beat, sqlx::Error> {
    let message = format!(
        "{begin}; select conductor.heartbeat({id}, '{} microseconds'), conductor.drain_for({id}); commit",
        interval(lease).microseconds,
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(message))
        .fetch_all(connection)
        .await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Beat {
        held: row.try_get(0)?,
        drain_for: row.try_get(1)?,
    })
}

/// Gives up a lease, and what is held under it.
pub async fn give_up(database: &Database, id: i64) -> Result<(), sqlx::Error> {
    database.run(stop(id)).await.map(drop)
}

/// Gives up a lease, with retries for at most this time.
pub async fn give_up_within(
    database: &Database,
    id: i64,
    most: Duration,
) -> Result<(), sqlx::Error> {
    let mut budget = RetryBudget::new(most);
    loop {
        match budget.ask(database, stop(id)).await {
            Ok(_) => return Ok(()),
            Err(error) if budget.may_retry(&error).await => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the migration for which a lease was refused because this program does not know it.
pub fn too_new_for(error: &sqlx::Error) -> Option<i32> {
    let error = error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()?;
    (error.code() == SCHEMA_TOO_NEW).then(|| error.detail()?.parse().ok())?
}

fn stop(id: i64) -> Query<'static, Postgres, PgArguments> {
    sqlx::query("select conductor.stop_orchestrator($1)").bind(id)
}

fn interval(lease: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(lease.as_micros()).unwrap_or(i64::MAX),
    }
}
