use std::time::{Duration, Instant};

use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::watch;

use crate::client::Conductor;
use crate::worker::{Control, Signals};

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
    pool: &PgPool,
    identity: &Identity,
    times: LeaseTimes,
) -> Result<i64, sqlx::Error> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    sqlx::query_scalar("select conductor.start_orchestrator($1, $2, $3, $4, $5)")
        .bind(host.to_string_lossy())
        .bind(i32::try_from(std::process::id()).unwrap_or_default())
        .bind(&identity.queue_ids)
        .bind(&identity.task_ids)
        .bind(times.interval())
        .fetch_one(pool)
        .await
}

/// Keeps the lease for as long as the orchestrator lives, over a connection of its own: handlers
/// that use up the pool must not cost the process its lease.
pub(super) async fn keep(
    conductor: Conductor,
    identity: Identity,
    times: LeaseTimes,
    control: watch::Sender<Control>,
    signals: Signals,
    taken: Instant,
) {
    let mut id = control.borrow().orchestrator.unwrap_or_default();
    let mut renewed = taken;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect_lazy_with((*conductor.pool().connect_options()).clone());
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
        let beaten = tokio::time::timeout(patience, beat(&pool, id, times)).await;
        failed = !matches!(beaten, Ok(Ok(_)));
        match beaten {
            Ok(Ok(true)) => {
                renewed = began;
                assume(&control, Some(id));
            }
            Ok(Ok(false)) => {
                assume(&control, None);
                tracing::warn!(orchestrator = id, "the lease was lost; starting anew");
                match start(&pool, &identity, times).await {
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
    }
}

fn assume(control: &watch::Sender<Control>, orchestrator: Option<i64>) {
    control.send_if_modified(|control| {
        let changed = control.orchestrator != orchestrator;
        control.orchestrator = orchestrator;
        changed
    });
}

async fn beat(pool: &PgPool, id: i64, times: LeaseTimes) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.heartbeat($1, $2)")
        .bind(id)
        .bind(times.interval())
        .fetch_one(pool)
        .await
}
