use std::time::Duration;

use conductor_postgres::sqlstate::SCHEMA_TOO_NEW;
use conductor_postgres::{Database, connect, latest_version};
use sqlx::postgres::PgDatabaseError;
use sqlx::postgres::types::PgInterval;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::watch;

use crate::client::Conductor;
use crate::worker::{BootInstant, Control, Signals};

/// The mode of a transaction that takes a lease. In a stricter mode, the query for newer migrations
/// would use a snapshot that is older than the lock.
pub(super) const MODE: &str = "isolation level read committed read write";
/// The pause between a notification that older processes must end and the heartbeat that verifies
/// it.
const BEHIND_HINT: Duration = Duration::from_millis(50);
/// The pause after a failed renewal. The next try uses a new connection.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The shortest useful time for a renewal.
const SHORTEST_TRY: Duration = Duration::from_millis(100);

/// How often the lease is renewed, and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseTimes {
    pub(super) every: Duration,
    pub(super) lease: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(5),
            lease: Duration::from_secs(15),
        }
    }
}

impl LeaseTimes {
    /// Returns how long after a renewal handlers may run. They must stop before the lease ends.
    fn trust(self) -> Duration {
        self.lease.mul_f64(0.8)
    }

    /// Returns when the handlers must have stopped, for a lease that was renewed at this time.
    pub(super) fn until(self, renewed: BootInstant) -> BootInstant {
        renewed + self.trust()
    }

    fn interval(self) -> PgInterval {
        PgInterval {
            months: 0,
            days: 0,
            microseconds: i64::try_from(self.lease.as_micros()).unwrap_or(i64::MAX),
        }
    }
}

/// What an orchestrator registers about itself.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) queue_ids: Vec<i32>,
    pub(super) task_ids: Vec<i32>,
    pub(super) schedule_ids: Vec<i64>,
}

/// Takes a lease under a new id, in a transaction of mode [`MODE`].
pub(super) async fn start(
    connection: &mut PgConnection,
    identity: &Identity,
    times: LeaseTimes,
) -> Result<i64, sqlx::Error> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    sqlx::query_scalar(
        "select conductor.start_orchestrator(
        p_host => $1, p_pid => $2, p_queues => $3, p_tasks => $4, p_lease => $5, p_schedules => $6,
        p_version => $7)",
    )
    .bind(host.to_string_lossy())
    .bind(i32::try_from(std::process::id()).unwrap_or_default())
    .bind(&identity.queue_ids)
    .bind(&identity.task_ids)
    .bind(times.interval())
    .bind(&identity.schedule_ids)
    .bind(latest_version())
    .fetch_one(connection)
    .await
}

/// Returns the migration for which a lease was refused because this program does not know it.
pub(super) fn too_new_for(error: &sqlx::Error) -> Option<i32> {
    let error = error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()?;
    (error.code() == SCHEMA_TOO_NEW).then(|| error.detail()?.parse().ok())?
}

/// The heartbeat's own connection. After a fault or a missing answer it is dropped without the
/// protocol's closing message, and the next beat opens another one, which may get through.
struct Line {
    database: Database,
    begin: String,
    connection: Option<PgConnection>,
}

impl Line {
    async fn connection(&mut self) -> Result<PgConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.database.options()).await,
        }
    }

    /// Renews the lease. Returns whether it was still held, and the breaking migration for which
    /// this process must end, if any.
    ///
    /// All of it is one message: a process that is frozen between begin and commit would keep its
    /// row locked, and other processes could not recover what it holds.
    async fn beat(
        &mut self,
        id: i64,
        times: LeaseTimes,
    ) -> Result<(bool, Option<i32>), sqlx::Error> {
        let mut connection = self.connection().await?;
        let message = format!(
            "{}; select conductor.heartbeat({id}, '{} microseconds'), conductor.drain_for({id}); commit",
            self.begin,
            times.interval().microseconds,
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(message))
            .fetch_all(&mut connection)
            .await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let held = (row.try_get(0)?, row.try_get(1)?);
        self.connection = Some(connection);
        Ok(held)
    }

    async fn start(&mut self, identity: &Identity, times: LeaseTimes) -> Result<i64, sqlx::Error> {
        let mut connection = self.connection().await?;
        let mut tx = connection
            .begin_with(AssertSqlSafe(self.begin.clone()))
            .await?;
        let id = start(&mut tx, identity, times).await?;
        tx.commit().await?;
        self.connection = Some(connection);
        Ok(id)
    }
}

/// Renews the lease while the orchestrator lives, over a connection of its own: handlers that use
/// up the pool must not cost the process its lease.
pub(super) async fn keep(
    conductor: Conductor,
    identity: Identity,
    times: LeaseTimes,
    control: watch::Sender<Control>,
    signals: Signals,
    taken: BootInstant,
    retired: watch::Sender<Option<i32>>,
) {
    let told = conductor.notifier().versions();
    let mut id = control.borrow().orchestrator.unwrap_or_default();
    let mut renewed = taken;
    let mut line = Line {
        database: conductor.database().clone(),
        // Behind a pooler, each of its messages is a transaction as well.
        begin: conductor.database().begin_words(MODE),
        connection: None,
    };
    let mut failed = false;
    loop {
        let doubtful = control.borrow().orchestrator.is_none();
        let pause = if doubtful {
            times.every.min(Duration::from_secs(1))
        } else if failed {
            times.every.min(TRY_AGAIN)
        } else {
            times
                .every
                .min(times.trust().saturating_sub(renewed.elapsed()))
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = signals.lease_lost.notified() => {}
            // A notification is only a hint, which any role can send, at any rate; hence the pause.
            () = told.notified() => tokio::time::sleep(BEHIND_HINT).await,
        }

        let began = BootInstant::now();
        // A statement that hangs must not outlast the time for which the lease is trusted, and if
        // this connection fails, there must be time for another one.
        let patience = if doubtful {
            times.every
        } else {
            let left = times.until(renewed).since(began);
            (left / 2)
                .max(SHORTEST_TRY)
                .min(left.max(Duration::from_millis(10)))
        };
        let beaten = tokio::time::timeout(patience, line.beat(id, times)).await;
        failed = !matches!(beaten, Ok(Ok(_)));
        match &beaten {
            Ok(Ok(_)) => conductor.outage().over(),
            // The consequences for the lease are logged below.
            Ok(Err(error)) => drop(conductor.outage().met(error)),
            Err(_) => {}
        }
        match beaten {
            Ok(Ok((true, drain_for))) => {
                renewed = began;
                hold(&control, id, times.until(renewed));
                if drain_for.is_some_and(|version| version > latest_version()) {
                    retire(&retired, drain_for);
                }
            }
            Ok(Ok((false, _))) if retired.borrow().is_some() => {
                // The lease was given up, or this process was taken for dead; it cannot get another
                // lease.
                doubt(&control);
                return std::future::pending().await;
            }
            Ok(Ok((false, _))) => {
                doubt(&control);
                tracing::warn!(orchestrator = id, "the lease was lost; starting anew");
                match line.start(&identity, times).await {
                    Ok(new) => {
                        id = new;
                        renewed = began;
                        hold(&control, id, times.until(renewed));
                    }
                    Err(error) if too_new_for(&error).is_some() => {
                        retire(&retired, too_new_for(&error));
                    }
                    Err(error) => tracing::warn!(%error, "cannot take a new lease yet"),
                }
            }
            beaten => {
                let reason = match beaten {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer".to_owned(),
                };
                if !doubtful && renewed.elapsed() >= times.trust() {
                    tracing::warn!(reason, "the lease cannot be renewed");
                    doubt(&control);
                }
                continue;
            }
        }
    }
}

/// Sets the lease. Notifies also if the id is the same but its holder had already seen the lease
/// expire.
fn hold(control: &watch::Sender<Control>, id: i64, until: BootInstant) {
    control.send_if_modified(|control| {
        let changed = control.holder() != Some(id);
        control.orchestrator = Some(id);
        control.until = until;
        changed
    });
}

fn doubt(control: &watch::Sender<Control>) {
    control.send_if_modified(|control| control.orchestrator.take().is_some());
}

/// Stores the version for which this process must end; the first one is kept.
fn retire(retired: &watch::Sender<Option<i32>>, version: Option<i32>) {
    retired.send_if_modified(|current| {
        let first = current.is_none();
        *current = current.or(version);
        first
    });
}
