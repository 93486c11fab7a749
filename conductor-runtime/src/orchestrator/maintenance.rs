//! Keeps the tables small. One process of the cluster at a time runs each chore: the first one that finds it due in
//! `conductor.chores`, so that there is no leader to lose.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use conductor_postgres::Database;
use conductor_postgres::store::{chores, pruning};
use tokio::sync::watch;

use super::chores::{log_recovered, patiently};
use super::rows;
use super::service::{Service, Until, changed};
use crate::client::Conductor;

/// How often each chore runs across the cluster.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const LOOK_FOR_ORPHANS_EVERY: Duration = Duration::from_secs(60 * 60);
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one process continues with a long chore before another process may take over.
const TURN: Duration = Duration::from_secs(30);
/// How many executions one statement removes; adapted so that a statement takes between `QUICK` and `SLOW`.
const PORTION: RangeInclusive<i32> = 100..=5000;
const QUICK: Duration = Duration::from_millis(15);
const SLOW: Duration = Duration::from_millis(40);
/// The time limit of one chore, including all its portions.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_LANES: i32 = 5000;
const SWEPT: i32 = 5000;

/// Checks for due chores at each heartbeat, and at once when a test moves the clock. Separate from the chores that
/// must not wait.
pub(super) struct Maintenance {
    conductor: Conductor,
    every: Duration,
    ddl: bool,
    clock: watch::Receiver<i64>,
}

impl Maintenance {
    pub(super) fn new(conductor: Conductor, every: Duration, ddl: bool) -> Self {
        let clock = conductor.notifier().clock_shift_ms();
        Self {
            conductor,
            every,
            ddl,
            clock,
        }
    }
}

impl Service for Maintenance {
    const UNTIL: Until = Until::End;

    fn first(&self) -> Option<Duration> {
        Some(self.every)
    }

    async fn round(&mut self, holder: Option<i64>) -> Duration {
        if holder.is_some() {
            let conductor = &self.conductor;
            patiently(conductor, "pruning", PATIENCE, prune(conductor, self.ddl)).await;
            patiently(conductor, "orphans", PATIENCE, orphans(conductor)).await;
            patiently(conductor, "sweeping", PATIENCE, sweep(conductor)).await;
        }
        self.every
    }

    async fn hint(&mut self) {
        changed(&mut self.clock).await;
    }
}

/// Prunes in a process that may end before its first heartbeat. Triggers are not dropped, because what this process
/// listens to is not declared yet.
pub(super) async fn catch_up(conductor: &Conductor) {
    patiently(conductor, "pruning", PATIENCE, prune(conductor, false)).await;
}

async fn prune(conductor: &Conductor, ddl: bool) -> Result<(), sqlx::Error> {
    let database = conductor.database();
    if chores::take(database, "prune", PRUNE_EVERY)
        .await?
        .is_none()
    {
        return Ok(());
    }
    let began = Instant::now();
    let mut portion = 1000;
    let mut after: Option<DateTime<Utc>> = None;
    loop {
        let sent = Instant::now();
        let (removed, reached) = pruning::prune_finished(database, portion, after).await?;
        if removed < portion {
            break;
        }
        if began.elapsed() >= TURN {
            return chores::leave(database, "prune", None, true).await;
        }
        after = reached;
        let took = sent.elapsed();
        if took > SLOW {
            portion = (portion / 2).max(*PORTION.start());
        } else if took < QUICK {
            portion = (portion * 2).min(*PORTION.end());
        }
        // Half of the time is left to other work.
        tokio::time::sleep(took).await;
    }
    loop {
        let sent = Instant::now();
        if pruning::prune(database, portion).await? < portion {
            break;
        }
        if began.elapsed() >= TURN {
            return chores::leave(database, "prune", None, true).await;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
    lanes(database, began).await?;
    row_triggers(conductor, ddl).await
}

/// Removes lanes and turns of keys that are no longer used, and revives those whose parked executions were
/// overlooked.
async fn lanes(database: &Database, began: Instant) -> Result<(), sqlx::Error> {
    pruning::revive_lanes(database).await?;
    pruning::revive_turns(database).await?;
    // If each execution has its own key, there are as many lanes as there were executions.
    loop {
        let sent = Instant::now();
        if pruning::prune_lanes(database, MOST_LANES).await? < MOST_LANES {
            return Ok(());
        }
        if began.elapsed() >= TURN {
            return chores::leave(database, "prune", None, true).await;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
}

/// Removes row watches that were not used for a week, and then triggers that nothing needs.
async fn row_triggers(conductor: &Conductor, ddl: bool) -> Result<(), sqlx::Error> {
    pruning::prune_row_watches(conductor.database()).await?;
    if ddl {
        rows::remove_unneeded(conductor).await?;
    }
    Ok(())
}

/// Recovers executions that run under an orchestrator that no longer exists.
async fn orphans(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let database = conductor.database();
    let taken = chores::take(database, "orphans", LOOK_FOR_ORPHANS_EVERY).await?;
    if taken.is_some() {
        log_recovered(chores::recover_orphans(database).await?);
    }
    Ok(())
}

/// Removes records whose execution no longer exists.
async fn sweep(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let database = conductor.database();
    let Some(mut position) = chores::take(database, "sweep", SWEEP_EVERY).await? else {
        return Ok(());
    };
    let began = Instant::now();
    loop {
        let sent = Instant::now();
        position = pruning::sweep(database, position, SWEPT).await?;
        if position.is_none() || began.elapsed() >= TURN {
            return chores::leave(database, "sweep", position, position.is_some()).await;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
}
