use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::client::Conductor;
use crate::worker::Control;

/// An execution that has seen its process die so often is taken for the killer.
const MAX_CRASHES: i32 = 5;
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_BATCH: i32 = 1000;
/// Most batches in a row, so that the other chores have their turn.
const MOST_BATCHES: usize = 100;
const LOOK_FOR_ORPHANS_EVERY: Duration = Duration::from_secs(60 * 60);
/// Longest time for one chore; it is taken up again with the next round.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does what some living process of the cluster must do, any of them: recovers the dead, passes on
/// cancels whose notification was missed, prunes. Apart from the heartbeat, which must not wait.
pub(super) async fn chores(
    conductor: Conductor,
    control: watch::Receiver<Control>,
    every: Duration,
) {
    let mut pruned = Instant::now();
    let mut orphans_sought = Instant::now();
    loop {
        tokio::time::sleep(every).await;
        let orchestrator = control.borrow().orchestrator;
        let Some(id) = orchestrator else {
            continue;
        };
        patiently(
            "recovery",
            recover(
                &conductor,
                "select conductor.recover($1)",
                Some(MAX_CRASHES),
            ),
        )
        .await;
        patiently("cancels", pass_on_cancels(&conductor, id)).await;
        if pruned.elapsed() >= PRUNE_EVERY {
            pruned = Instant::now();
            patiently("pruning", prune(&conductor)).await;
            patiently("lanes", lanes(&conductor)).await;
        }
        if orphans_sought.elapsed() >= LOOK_FOR_ORPHANS_EVERY {
            orphans_sought = Instant::now();
            patiently(
                "orphans",
                recover(&conductor, "select conductor.recover_orphans()", None),
            )
            .await;
        }
    }
}

async fn patiently(chore: &str, work: impl Future<Output = Result<(), sqlx::Error>>) {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(chore, %error, "left for the next round"),
        Err(_) => tracing::warn!(chore, "left for the next round: it takes too long"),
    }
}

async fn recover(
    conductor: &Conductor,
    statement: &'static str,
    max_crashes: Option<i32>,
) -> Result<(), sqlx::Error> {
    let mut query = sqlx::query_scalar(statement);
    if let Some(max_crashes) = max_crashes {
        query = query.bind(max_crashes);
    }
    let recovered: i32 = query.fetch_one(conductor.pool()).await?;
    if recovered > 0 {
        tracing::warn!(executions = recovered, "recovered from a dead process");
    }
    Ok(())
}

async fn pass_on_cancels(conductor: &Conductor, id: i64) -> Result<(), sqlx::Error> {
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

/// Lanes of keys that nothing uses any more go; one whose parked executions were lost sight of is
/// found.
async fn lanes(conductor: &Conductor) -> Result<(), sqlx::Error> {
    sqlx::query("select conductor.prune_lanes($1), conductor.revive_lanes()")
        .bind(PRUNE_BATCH)
        .execute(conductor.pool())
        .await
        .map(drop)
}

async fn prune(conductor: &Conductor) -> Result<(), sqlx::Error> {
    for _ in 0..MOST_BATCHES {
        let removed: i32 = sqlx::query_scalar("select conductor.prune($1)")
            .bind(PRUNE_BATCH)
            .fetch_one(conductor.pool())
            .await?;
        if removed < PRUNE_BATCH {
            break;
        }
    }
    Ok(())
}
