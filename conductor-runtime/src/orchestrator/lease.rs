//! The lease of an orchestrator, and the heartbeat that renews it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::store::leases::{self, Beat, Identity};
use conductor_postgres::{Database, connect, latest_version, too_new};
use sqlx::PgConnection;
use tokio::sync::{Notify, watch};

use super::channels::Channels;
use super::retirement::{self, Retirement};
use crate::client::Conductor;
use crate::error::Result;
use crate::worker::{BootInstant, Control, Phase};

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
}

/// Returns what this process registers about itself.
pub(super) fn identity(
    queue_ids: Vec<i32>,
    task_ids: Vec<i32>,
    schedule_ids: Vec<i64>,
) -> Identity {
    let host = nix::unistd::gethostname().unwrap_or_default();
    Identity {
        host: host.to_string_lossy().into_owned(),
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        queue_ids,
        task_ids,
        schedule_ids,
    }
}

/// Takes the first lease. Returns also since when it counts.
pub(super) async fn take(
    conductor: &Conductor,
    identity: &Identity,
    times: LeaseTimes,
) -> Result<(Control, BootInstant)> {
    let taken = BootInstant::now();
    let mut tx = conductor.database().begin_as(leases::MODE).await?;
    let id = leases::start(&mut tx, identity, times.lease)
        .await
        .map_err(|error| match leases::too_new_for(&error) {
            Some(version) => too_new(version),
            None => error.into(),
        })?;
    tx.end().await?;
    let lease = Control {
        orchestrator: Some(id),
        until: times.until(taken),
        phase: Phase::Working,
    };
    Ok((lease, taken))
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

    async fn renew(&mut self, id: i64, times: LeaseTimes) -> Result<Beat, sqlx::Error> {
        let mut connection = self.connection().await?;
        let beat = leases::renew(&mut connection, &self.begin, id, times.lease).await?;
        self.connection = Some(connection);
        Ok(beat)
    }

    async fn start(&mut self, identity: &Identity, times: LeaseTimes) -> Result<i64, sqlx::Error> {
        let mut connection = self.connection().await?;
        let mut tx = leases::begin(&mut connection, self.begin.clone()).await?;
        let id = leases::start(&mut tx, identity, times.lease).await?;
        tx.commit().await?;
        self.connection = Some(connection);
        Ok(id)
    }
}

/// Renews the lease while the orchestrator lives, over a connection of its own: handlers that use
/// up the pool must not cost the process its lease.
pub(super) struct Heartbeat {
    conductor: Conductor,
    line: Line,
    identity: Identity,
    times: LeaseTimes,
    id: i64,
    renewed: BootInstant,
    /// Whether the last renewal has failed.
    failed: bool,
    control: watch::Sender<Control>,
    retirement: watch::Sender<Retirement>,
    /// Notified when the database tells a worker that the lease is over.
    lease_lost: Arc<Notify>,
}

impl Heartbeat {
    pub(super) fn new(
        conductor: &Conductor,
        identity: Identity,
        times: LeaseTimes,
        taken: BootInstant,
        channels: &Channels,
    ) -> Self {
        let database = conductor.database().clone();
        let id = channels.control.borrow().orchestrator;
        Self {
            conductor: conductor.clone(),
            line: Line {
                // Behind a pooler, each of its messages is a transaction as well.
                begin: database.begin_words(leases::MODE),
                database,
                connection: None,
            },
            identity,
            times,
            id: id.unwrap_or_default(),
            renewed: taken,
            failed: false,
            control: channels.control.clone(),
            retirement: channels.retirement.clone(),
            lease_lost: Arc::clone(&channels.signals.lease_lost),
        }
    }

    pub(super) async fn run(mut self) {
        let told = self.conductor.notifier().versions();
        loop {
            let doubtful = self.control.borrow().orchestrator.is_none();
            tokio::select! {
                () = tokio::time::sleep(self.pause(doubtful)) => {}
                () = self.lease_lost.notified() => {}
                // A notification is only a hint, which any role can send, at any rate; hence the pause.
                () = told.notified() => tokio::time::sleep(BEHIND_HINT).await,
            }
            if self.beat(doubtful).await.is_break() {
                return std::future::pending().await;
            }
        }
    }

    fn pause(&self, doubtful: bool) -> Duration {
        let most = if doubtful {
            Duration::from_secs(1)
        } else if self.failed {
            TRY_AGAIN
        } else {
            self.times.trust().saturating_sub(self.renewed.elapsed())
        };
        self.times.every.min(most)
    }

    /// Returns how long a renewal that begins now may take. A statement that hangs must not outlast
    /// the time for which the lease is trusted, and if this connection fails, there must be time for
    /// another one.
    fn budget(&self, doubtful: bool, now: BootInstant) -> Duration {
        if doubtful {
            return self.times.every;
        }
        let left = self.times.until(self.renewed).since(now);
        (left / 2)
            .max(SHORTEST_TRY)
            .min(left.max(Duration::from_millis(10)))
    }

    /// Renews the lease, or takes a new one. Breaks if this process cannot get another one.
    async fn beat(&mut self, doubtful: bool) -> ControlFlow<()> {
        let began = BootInstant::now();
        let budget = self.budget(doubtful, began);
        let renewing = self.line.renew(self.id, self.times);
        let beaten = match tokio::time::timeout(budget, renewing).await {
            Ok(Ok(beat)) => Ok(beat),
            Ok(Err(error)) => {
                // The consequences for the lease are logged below.
                let _ = self.conductor.outage().met(&error);
                Err(error.to_string())
            }
            Err(_) => Err("no answer".to_owned()),
        };
        self.failed = beaten.is_err();
        let beat = match beaten {
            Ok(beat) => beat,
            Err(reason) => {
                if !doubtful && self.renewed.elapsed() >= self.times.trust() {
                    tracing::warn!(reason, "the lease cannot be renewed");
                    self.doubt();
                }
                return ControlFlow::Continue(());
            }
        };
        self.conductor.outage().over();
        if beat.held {
            self.hold(self.id, began);
            if let Some(version) = beat.drain_for.filter(|version| *version > latest_version()) {
                retirement::ask(&self.retirement, version);
            }
            return ControlFlow::Continue(());
        }
        self.doubt();
        if *self.retirement.borrow() != Retirement::NotAsked {
            // The lease was given up, or this process was taken for dead; it cannot get another
            // lease.
            return ControlFlow::Break(());
        }
        self.start_anew(began).await;
        ControlFlow::Continue(())
    }

    async fn start_anew(&mut self, began: BootInstant) {
        tracing::warn!(orchestrator = self.id, "the lease was lost; starting anew");
        match self.line.start(&self.identity, self.times).await {
            Ok(id) => self.hold(id, began),
            Err(error) => match leases::too_new_for(&error) {
                Some(version) => retirement::ask(&self.retirement, version),
                None => tracing::warn!(%error, "cannot take a new lease yet"),
            },
        }
    }

    /// Sets the lease. Notifies also if the id is the same but its holder had already seen the lease
    /// expire.
    fn hold(&mut self, id: i64, renewed: BootInstant) {
        self.id = id;
        self.renewed = renewed;
        let until = self.times.until(renewed);
        self.control.send_if_modified(|control| {
            let changed = control.holder() != Some(id);
            control.orchestrator = Some(id);
            control.until = until;
            changed
        });
    }

    fn doubt(&self) {
        self.control
            .send_if_modified(|control| control.orchestrator.take().is_some());
    }
}
