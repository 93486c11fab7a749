use std::time::{Duration, Instant};

use sqlx::postgres::types::PgInterval;
use tokio::sync::watch;
use uuid::Uuid;

use crate::client::Conductor;
use crate::worker::{Control, Signals};

/// An execution that has seen its process die so often is taken for the killer.
const MAX_CRASHES: i32 = 5;
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_BATCH: i32 = 1000;
const LOOK_FOR_ORPHANS_EVERY: Duration = Duration::from_secs(60 * 60);
/// After a renewal that failed: the next connection of the pool may be a living one.
const TRY_AGAIN: Duration = Duration::from_millis(100);

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
    /// How long after a renewal the handlers may still run: they must stop before the lease ends.
    fn trust(self) -> Duration {
        self.lease.mul_f64(0.8)
    }

    fn interval(self) -> PgInterval {
        PgInterval {
            months: 0,
            days: 0,
            microseconds: i64::try_from(self.lease.as_micros()).unwrap_or(i64::MAX),
        }
    }
}

/// What the orchestrator is known by.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) queue_ids: Vec<i32>,
    pub(super) task_ids: Vec<i32>,
}

/// Takes a lease under a new id.
pub(super) async fn start(
    conductor: &Conductor,
    identity: &Identity,
    times: LeaseTimes,
) -> Result<i64, sqlx::Error> {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    sqlx::query_scalar("select conductor.start_orchestrator($1, $2, $3, $4, $5)")
        .bind(host)
        .bind(i32::try_from(std::process::id()).unwrap_or_default())
        .bind(&identity.queue_ids)
        .bind(&identity.task_ids)
        .bind(times.interval())
        .fetch_one(conductor.pool())
        .await
}

/// Keeps the lease for as long as the orchestrator lives, and does the chores of the cluster with
/// each heartbeat: recovers the dead, passes on cancels whose notification was missed, prunes.
pub(super) async fn keep(
    conductor: Conductor,
    identity: Identity,
    times: LeaseTimes,
    control: watch::Sender<Control>,
    signals: Signals,
) {
    let mut id = control.borrow().orchestrator.unwrap_or_default();
    let mut renewed = Instant::now();
    let mut pruned = Instant::now();
    let mut orphans_sought = Instant::now();
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
        }

        let began = Instant::now();
        // A statement that hangs must not outlive the trust in the lease.
        let patience = if doubtful {
            times.every
        } else {
            (renewed + times.trust())
                .saturating_duration_since(began)
                .max(Duration::from_millis(10))
        };
        let beaten = tokio::time::timeout(patience, beat(&conductor, id, times)).await;
        failed = !matches!(beaten, Ok(Ok(_)));
        match beaten {
            Ok(Ok(true)) => {
                renewed = began;
                assume(&control, Some(id));
            }
            Ok(Ok(false)) => {
                assume(&control, None);
                tracing::warn!(orchestrator = id, "the lease was lost; starting anew");
                match start(&conductor, &identity, times).await {
                    Ok(new) => {
                        id = new;
                        renewed = began;
                        assume(&control, Some(id));
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
                    assume(&control, None);
                }
                continue;
            }
        }
        if let Err(error) = chores(&conductor, id).await {
            tracing::debug!(%error, "chores are left for the next heartbeat");
        }
        if pruned.elapsed() >= PRUNE_EVERY {
            pruned = Instant::now();
            if let Err(error) = prune(&conductor).await {
                tracing::debug!(%error, "pruning is left for the next time");
            }
        }
        if orphans_sought.elapsed() >= LOOK_FOR_ORPHANS_EVERY {
            orphans_sought = Instant::now();
            if let Err(error) = recover_orphans(&conductor).await {
                tracing::debug!(%error, "orphans are sought the next time");
            }
        }
    }
}

fn assume(control: &watch::Sender<Control>, orchestrator: Option<i64>) {
    control.send_if_modified(|control| {
        let changed = control.orchestrator != orchestrator;
        control.orchestrator = orchestrator;
        changed
    });
}

async fn beat(conductor: &Conductor, id: i64, times: LeaseTimes) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.heartbeat($1, $2)")
        .bind(id)
        .bind(times.interval())
        .fetch_one(conductor.pool())
        .await
}

async fn chores(conductor: &Conductor, id: i64) -> Result<(), sqlx::Error> {
    let recovered: i32 = sqlx::query_scalar("select conductor.recover($1)")
        .bind(MAX_CRASHES)
        .fetch_one(conductor.pool())
        .await?;
    if recovered > 0 {
        tracing::warn!(executions = recovered, "recovered from a dead process");
    }
    let cancelled: Vec<Uuid> = sqlx::query_scalar(
        "select id from conductor.live_executions
          where cancelled and state = 'running' and orchestrator_id = $1",
    )
    .bind(id)
    .fetch_all(conductor.pool())
    .await?;
    conductor.notifier().pass_on_cancels(cancelled);
    Ok(())
}

async fn recover_orphans(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let recovered: i32 = sqlx::query_scalar("select conductor.recover_orphans()")
        .fetch_one(conductor.pool())
        .await?;
    if recovered > 0 {
        tracing::warn!(
            executions = recovered,
            "recovered executions that nobody held"
        );
    }
    Ok(())
}

async fn prune(conductor: &Conductor) -> Result<(), sqlx::Error> {
    loop {
        let removed: i32 = sqlx::query_scalar("select conductor.prune($1)")
            .bind(PRUNE_BATCH)
            .fetch_one(conductor.pool())
            .await?;
        if removed < PRUNE_BATCH {
            return Ok(());
        }
    }
}
