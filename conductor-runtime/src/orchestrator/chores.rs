//! What any living process can do, and must not wait: recovery, cancels, deferred actions.

use std::time::{Duration, Instant};

use conductor_postgres::store::{chores, processes};
use tokio::sync::watch;

use super::service::{Service, Until, changed};
use crate::client::Conductor;

/// The time limit of one chore. It is retried soon over another connection, because a network may
/// drop packets without an error.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most deferred actions in one round.
const MOST_DEFERRED: i32 = 500;
/// How long one round moves executions out of queues that their tasks have left.
const FOLLOWS: Duration = Duration::from_secs(2);
/// How often this runs across the cluster.
const HEAL_EVERY: Duration = Duration::from_secs(60);
/// The pause between two queries for cancels.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Runs the chores that any living process can do: recovers executions of dead processes, and
/// passes on cancels whose notification was missed. Separate from the heartbeat, which must not
/// wait.
pub(super) struct Chores {
    conductor: Conductor,
    every: Duration,
}

impl Chores {
    pub(super) fn new(conductor: Conductor, every: Duration) -> Self {
        Self { conductor, every }
    }

    async fn run(&self, id: i64) {
        let conductor = &self.conductor;
        patiently(conductor, "recovery", PATIENCE, recover(conductor)).await;
        patiently(conductor, "deferred", PATIENCE, do_deferred(conductor)).await;
        patiently(
            conductor,
            "cancels",
            PATIENCE,
            pass_on_cancels(conductor, id),
        )
        .await;
        patiently(conductor, "moves", PATIENCE, follow_moves(conductor)).await;
        patiently(conductor, "times", PATIENCE, heal_times(conductor)).await;
    }
}

impl Service for Chores {
    const UNTIL: Until = Until::End;

    fn first(&self) -> Option<Duration> {
        Some(self.every)
    }

    async fn round(&mut self, holder: Option<i64>) -> Duration {
        if let Some(id) = holder {
            self.run(id).await;
        }
        self.every
    }
}

/// Queries for cancels after a notification. Any role can send these, so they only trigger a query,
/// and there is one query at a time, followed by a pause.
pub(super) struct Cancels {
    conductor: Conductor,
    hints: watch::Receiver<()>,
}

impl Cancels {
    pub(super) fn new(conductor: Conductor) -> Self {
        let hints = conductor.notifier().cancel_hints();
        Self { conductor, hints }
    }
}

impl Service for Cancels {
    const UNTIL: Until = Until::End;

    fn first(&self) -> Option<Duration> {
        Some(Duration::MAX)
    }

    async fn round(&mut self, holder: Option<i64>) -> Duration {
        if let Some(id) = holder {
            let look = pass_on_cancels(&self.conductor, id);
            patiently(&self.conductor, "cancels", PATIENCE, look).await;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        Duration::MAX
    }

    async fn hint(&mut self) {
        changed(&mut self.hints).await;
    }
}

/// Runs one chore with a time limit and logs its failure. A statement that exceeds it is dropped
/// with its connection.
pub(super) async fn patiently(
    conductor: &Conductor,
    chore: &'static str,
    budget: Duration,
    work: impl Future<Output = Result<(), sqlx::Error>>,
) {
    match tokio::time::timeout(budget, work).await {
        Ok(Ok(())) => conductor.outage().over(),
        Ok(Err(error)) if conductor.outage().met(&error) => {}
        Ok(Err(error)) if !conductor.outage().is_news(chore, &error.to_string()) => {}
        Ok(Err(error)) => tracing::warn!(chore, %error, "left for the next round"),
        Err(_) if !conductor.outage().is_news(chore, "") => {}
        Err(_) => tracing::warn!(chore, "left for the next round: it takes too long"),
    }
}

async fn recover(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let recovered = chores::recover(conductor.database()).await?;
    log_recovered(recovered);
    Ok(())
}

/// Logs how many executions were recovered, if there were any.
pub(super) fn log_recovered(executions: i32) {
    if executions > 0 {
        tracing::warn!(executions, "recovered from a dead process");
    }
}

/// Does what was deferred for executions that another transaction had locked, if they are free now.
async fn do_deferred(conductor: &Conductor) -> Result<(), sqlx::Error> {
    chores::do_deferred(conductor.database(), MOST_DEFERRED).await
}

/// Moves executions that are still in a queue that their task has left. Separate from the deferred
/// actions, so that a scan of a long queue does not undo them. Half of the time is left to other
/// work.
async fn follow_moves(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let began = Instant::now();
    while began.elapsed() < FOLLOWS {
        let sent = Instant::now();
        if !chores::follow_moves(conductor.database()).await? {
            break;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
    Ok(())
}

/// Corrects times that lie further ahead than possible, because the server's clock was ahead for a
/// while.
async fn heal_times(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let database = conductor.database();
    if chores::take(database, "times", HEAL_EVERY).await?.is_none() {
        return Ok(());
    }
    let healed = chores::heal_times(database).await?;
    if let Some(first) = healed.first() {
        tracing::warn!(
            times = healed.len(),
            first,
            "the server's clock was ahead: what it put off too far is due, or ends, in time"
        );
    }
    Ok(())
}

async fn pass_on_cancels(conductor: &Conductor, id: i64) -> Result<(), sqlx::Error> {
    let cancelled = processes::cancelled_under(conductor.database(), id).await?;
    conductor.notifier().pass_on_cancels(cancelled).await;
    Ok(())
}
