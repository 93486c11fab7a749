use std::time::{Duration, Instant};

use conductor_postgres::{Alone, MAX_CRASHES};
use tokio::sync::watch;
use uuid::Uuid;

use super::maintenance::take;
use crate::client::Conductor;
use crate::worker::Control;

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
pub(super) async fn chores(
    conductor: Conductor,
    control: watch::Receiver<Control>,
    every: Duration,
) {
    loop {
        tokio::time::sleep(every).await;
        let orchestrator = control.borrow().orchestrator;
        let Some(id) = orchestrator else {
            continue;
        };
        patiently(
            &conductor,
            "recovery",
            PATIENCE,
            recover(&conductor, "select conductor.recover($1)"),
        )
        .await;
        patiently(&conductor, "deferred", PATIENCE, do_deferred(&conductor)).await;
        patiently(
            &conductor,
            "cancels",
            PATIENCE,
            pass_on_cancels(&conductor, id),
        )
        .await;
        patiently(&conductor, "moves", PATIENCE, follow_moves(&conductor)).await;
        patiently(&conductor, "times", PATIENCE, heal_times(&conductor)).await;
    }
}

/// Queries for cancels after a notification. Any role can send these, so they only trigger a query,
/// and there is one query at a time, followed by a pause.
pub(super) async fn heed_cancels(conductor: Conductor, control: watch::Receiver<Control>) {
    let mut hints = conductor.notifier().cancel_hints();
    while hints.changed().await.is_ok() {
        let orchestrator = control.borrow().orchestrator;
        if let Some(id) = orchestrator {
            let look = pass_on_cancels(&conductor, id);
            patiently(&conductor, "cancels", PATIENCE, look).await;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Runs one chore with a time limit and logs its failure. A statement that exceeds it is dropped
/// with its connection.
pub(super) async fn patiently(
    conductor: &Conductor,
    chore: &'static str,
    patience: Duration,
    work: impl Future<Output = Result<(), sqlx::Error>>,
) {
    match tokio::time::timeout(patience, work).await {
        Ok(Ok(())) => conductor.outage().over(),
        Ok(Err(error)) if conductor.outage().met(&error) => {}
        Ok(Err(error)) if !conductor.outage().is_news(chore, &error.to_string()) => {}
        Ok(Err(error)) => tracing::warn!(chore, %error, "left for the next round"),
        Err(_) if !conductor.outage().is_news(chore, "") => {}
        Err(_) => tracing::warn!(chore, "left for the next round: it takes too long"),
    }
}

pub(super) async fn recover(
    conductor: &Conductor,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query_scalar(statement).bind(MAX_CRASHES);
    let recovered: i32 = query.one(conductor.database()).await?;
    if recovered > 0 {
        tracing::warn!(executions = recovered, "recovered from a dead process");
    }
    Ok(())
}

/// Does what was deferred for executions that another transaction had locked, if they are free now.
async fn do_deferred(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let look = sqlx::query("select conductor.do_deferred($1, $2)")
        .bind(MOST_DEFERRED)
        .bind(MAX_CRASHES);
    conductor.database().run(look).await.map(drop)
}

/// Moves executions that are still in a queue that their task has left. Separate from the deferred
/// actions, so that a scan of a long queue does not undo them. Half of the time is left to other
/// work.
async fn follow_moves(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let began = Instant::now();
    while began.elapsed() < FOLLOWS {
        let sent = Instant::now();
        let more: bool = sqlx::query_scalar("select more from conductor.follow_moves()")
            .one(conductor.database())
            .await?;
        if !more {
            break;
        }
        tokio::time::sleep(sent.elapsed()).await;
    }
    Ok(())
}

/// Corrects times that lie further ahead than possible, because the server's clock was ahead for a
/// while.
async fn heal_times(conductor: &Conductor) -> Result<(), sqlx::Error> {
    if take(conductor, "times", HEAL_EVERY).await?.is_none() {
        return Ok(());
    }
    let healed: Vec<String> = sqlx::query_scalar("select h from conductor.heal_times() h")
        .all(conductor.database())
        .await?;
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
    let cancelled: Vec<Uuid> = sqlx::query_scalar(
        "select id from conductor.live_executions
          where cancelled and state = 'running' and orchestrator_id = $1",
    )
    .bind(id)
    .all(conductor.database())
    .await?;
    conductor.notifier().pass_on_cancels(cancelled).await;
    Ok(())
}
