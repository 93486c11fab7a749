//! The end of a process's work for a newer build that is about to apply a breaking migration.

use std::time::Duration;

use conductor_postgres::latest_version;
use conductor_postgres::store::leases;
use tokio::sync::watch;

use crate::client::Conductor;
use crate::worker::{Control, Phase};

/// The pause after a failed try to give up the lease.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Whether a process must end for a newer build, and the version of the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retirement {
    NotAsked,
    Asked(i32),
    /// Its work has ended.
    Done(i32),
}

/// Stores the version for which this process must end; the first one is kept.
pub(super) fn ask(retirement: &watch::Sender<Retirement>, version: i32) {
    retirement.send_if_modified(|retirement| {
        let first = *retirement == Retirement::NotAsked;
        if first {
            *retirement = Retirement::Asked(version);
        }
        first
    });
}

/// Waits until the work of this process has ended for a newer build, and returns its migration.
pub(super) async fn done(mut retirement: watch::Receiver<Retirement>) -> i32 {
    let is_done = |retirement: &Retirement| matches!(retirement, Retirement::Done(_));
    let reached = retirement.wait_for(is_done).await.map(|done| *done);
    match reached {
        Ok(Retirement::Done(version)) => version,
        // The sender is dropped only together with the handle.
        _ => std::future::pending().await,
    }
}

/// Waits until a newer build asks for the end of this process.
async fn asked(mut retirement: watch::Receiver<Retirement>) -> i32 {
    let is_asked = |retirement: &Retirement| matches!(retirement, Retirement::Asked(_));
    let reached = retirement.wait_for(is_asked).await.map(|asked| *asked);
    match reached {
        Ok(Retirement::Asked(version)) => version,
        _ => std::future::pending().await,
    }
}

/// Ends the work of this process once it was [asked](ask) for, and says when it has ended.
pub(super) struct Retiring {
    pub(super) conductor: Conductor,
    pub(super) retirement: watch::Sender<Retirement>,
    pub(super) control: watch::Sender<Control>,
    pub(super) at_work: watch::Sender<()>,
    pub(super) shutdown_deadline: Duration,
}

impl Retiring {
    pub(super) async fn run(self) {
        let version = asked(self.retirement.subscribe()).await;
        tracing::warn!(
            version,
            known = latest_version(),
            "a newer build brings a schema version that breaks with this one: draining, then ending"
        );
        wind_down(&self.control, &self.at_work, self.shutdown_deadline).await;
        self.give_up_lease().await;
        self.retirement.send_replace(Retirement::Done(version));
        // If this returned, it would be taken for a fault.
        std::future::pending().await
    }

    async fn give_up_lease(&self) {
        loop {
            let orchestrator = self.control.borrow().orchestrator;
            let Some(id) = orchestrator else {
                break;
            };
            match leases::give_up(self.conductor.database(), id).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "cannot give up the lease yet"),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        self.control
            .send_modify(|control| control.orchestrator = None);
    }
}

/// Stops claiming and ends the workers: at once if nothing runs, at the deadline at the latest.
pub(super) async fn wind_down(
    control: &watch::Sender<Control>,
    at_work: &watch::Sender<()>,
    deadline: Duration,
) {
    control.send_if_modified(|control| {
        let first = control.phase == Phase::Working;
        if first {
            control.phase = Phase::Stopping;
        }
        first
    });
    if tokio::time::timeout(deadline, at_work.closed())
        .await
        .is_err()
    {
        tracing::warn!("the shutdown's deadline is over; running handlers are released");
        control.send_modify(|control| control.phase = Phase::Halting);
        at_work.closed().await;
    }
}
