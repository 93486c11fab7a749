//! Keeps the tables small. One process of the cluster at a time runs each chore: the first one that finds it due in
//! `conductor.chores`, so that there is no leader to lose.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use conductor_postgres::Alone;
use tokio::sync::watch;
use uuid::Uuid;

use super::chores::{patiently, recover};
use super::rows;
use crate::client::Conductor;
use crate::worker::Control;

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
pub(super) async fn keep(
    conductor: Conductor,
    control: watch::Receiver<Control>,
    every: Duration,
    ddl: bool,
) {
    let mut clock = conductor.notifier().clock_shift_ms();
    loop {
        // If the clock's channel is closed, the heartbeat remains.
        let moved = async {
            if clock.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = moved => {}
        }
        if control.borrow().orchestrator.is_none() {
            continue;
        }
        patiently(&conductor, "pruning", PATIENCE, prune(&conductor, ddl)).await;
        patiently(&conductor, "orphans", PATIENCE, orphans(&conductor)).await;
        patiently(&conductor, "sweeping", PATIENCE, sweep(&conductor)).await;
    }
}

/// Prunes in a process that may end before its first heartbeat. Triggers are not dropped, because what this process
/// listens to is not declared yet.
pub(super) async fn catch_up(conductor: &Conductor) {
    patiently(conductor, "pruning", PATIENCE, prune(conductor, false)).await;
}

/// Removes lanes and turns of keys that are no longer used, and revives those whose parked executions were
/// overlooked.
async fn lanes(conductor: &Conductor, began: Instant) -> Result<(), sqlx::Error> {
    for revive in [
        "select conductor.revive_lanes()",
        "select conductor.revive_turns()",
    ] {
        conductor.database().run(sqlx::query(revive)).await?;
    }
    // If each execution has its own key, there are as many lanes as there were executions.
    loop {
        let sent = Instant::now();
        let removed: i32 = sqlx::query_scalar("select conductor.prune_lanes($1)")
            .bind(MOST_LANES)
            .one(conductor.database())
            .await?;
        if removed < MOST_LANES {
            return Ok(());
        }
        if began.elapsed() >= TURN {
            return leave(conductor, "prune", None, true).await;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
}

/// Takes a chore of the whole cluster if it is due, and returns the position that it had reached before.
pub(super) async fn take(
    conductor: &Conductor,
    chore: &str,
    every: Duration,
) -> Result<Option<Option<Uuid>>, sqlx::Error> {
    sqlx::query_scalar(
        "select position_before from conductor.take_chore($1, $2 * interval '1 second')",
    )
    .bind(chore)
    .bind(every.as_secs_f64())
    .optional(conductor.database())
    .await
}

async fn leave(
    conductor: &Conductor,
    chore: &str,
    position: Option<Uuid>,
    again: bool,
) -> Result<(), sqlx::Error> {
    let leave = sqlx::query("select conductor.leave_chore($1, $2, $3)")
        .bind(chore)
        .bind(position)
        .bind(again);
    conductor.database().run(leave).await.map(drop)
}

async fn prune(conductor: &Conductor, ddl: bool) -> Result<(), sqlx::Error> {
    if take(conductor, "prune", PRUNE_EVERY).await?.is_none() {
        return Ok(());
    }
    let began = Instant::now();
    let mut portion = 1000;
    let mut after: Option<DateTime<Utc>> = None;
    loop {
        let sent = Instant::now();
        let (removed, reached): (i32, Option<DateTime<Utc>>) = sqlx::query_as(
            "select removed, nullif(reached, '-infinity')
               from conductor.prune_finished($1, coalesce($2, '-infinity'))",
        )
        .bind(portion)
        .bind(after)
        .one(conductor.database())
        .await?;
        if removed < portion {
            break;
        }
        if began.elapsed() >= TURN {
            return leave(conductor, "prune", None, true).await;
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
        let removed: i32 = sqlx::query_scalar("select conductor.prune($1)")
            .bind(portion)
            .one(conductor.database())
            .await?;
        if removed < portion {
            break;
        }
        if began.elapsed() >= TURN {
            return leave(conductor, "prune", None, true).await;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
    lanes(conductor, began).await?;
    row_triggers(conductor, ddl).await
}

/// Removes row watches that were not used for a week, and then triggers that nothing needs.
async fn row_triggers(conductor: &Conductor, ddl: bool) -> Result<(), sqlx::Error> {
    let prune = sqlx::query("select conductor.prune_row_watches()");
    conductor.database().run(prune).await?;
    if ddl {
        rows::remove_unneeded(conductor).await?;
    }
    Ok(())
}

/// Recovers executions that run under an orchestrator that no longer exists.
async fn orphans(conductor: &Conductor) -> Result<(), sqlx::Error> {
    if take(conductor, "orphans", LOOK_FOR_ORPHANS_EVERY)
        .await?
        .is_none()
    {
        return Ok(());
    }
    recover(conductor, "select conductor.recover_orphans($1)").await
}

/// Removes records whose execution no longer exists.
async fn sweep(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let Some(mut position) = take(conductor, "sweep", SWEEP_EVERY).await? else {
        return Ok(());
    };
    let began = Instant::now();
    loop {
        let sent = Instant::now();
        position = sqlx::query_scalar("select conductor.sweep($1, $2)")
            .bind(position)
            .bind(SWEPT)
            .one(conductor.database())
            .await?;
        if position.is_none() || began.elapsed() >= TURN {
            return leave(conductor, "sweep", position, position.is_some()).await;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
}
