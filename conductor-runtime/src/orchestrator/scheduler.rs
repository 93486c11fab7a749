//! Ticks: declares the schedules of this binary, and creates the executions of ticks that are due.

mod far;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::Clock;
use conductor_postgres::store::ticks::{self, DueRow, TickColumns};
use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::service::{Failures, Service, Until, settled};
use crate::client::Conductor;
use crate::error::Result;
use crate::registry::Registry;
use crate::task::CronDefinition;
use far::Far;
pub(super) use plan::Statics;
pub(crate) use plan::computed;
use plan::plan;

/// How long a new schedule of another process stays unnoticed at most if no notification arrives.
const POLL: Duration = Duration::from_secs(5);
/// The pause after another process was faster or has locked what is due: the first value, because its transaction may
/// not have committed yet, doubling up to the second.
const OUTDONE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// While ticks wait for one another, the pause between queries whether the first has ended: the first value after one
/// was made due, doubling up to the second.
const QUEUED: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// The time limit of one round. A network that drops packets may stay silent for a quarter of an hour, while a new
/// connection might work.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the application's code may take to compute the payloads of what is due.
const PAYLOADS: Duration = Duration::from_secs(5);
/// The most schedules in one round.
const MOST: i32 = 500;

/// Returns the crates of this binary and the schedules of its tasks, in the form that `conductor.declare_schedules`
/// reads.
pub(crate) fn declared_schedules(registry: &Registry) -> (Vec<String>, serde_json::Value) {
    let owners: BTreeSet<String> = registry.tasks().map(|task| task.owner()).collect();
    let schedules: serde_json::Value = registry
        .tasks()
        .flat_map(|task| task.crons.iter().map(move |cron| (task, cron)))
        .map(|(task, cron)| {
            json!({
                "task": task.name,
                "name": cron.name,
                "owner": task.owner(),
                "cron": cron.cron,
                "timezone": cron.timezone,
                "missed": cron.missed.as_str(),
                "overlap": cron.overlap.as_str(),
            })
        })
        .collect();
    (owners.into_iter().collect(), schedules)
}

/// Declares the schedules of this binary, and removes those that it no longer has.
pub(super) async fn declare(conductor: &Conductor) -> Result<Statics> {
    let (owners, schedules) = declared_schedules(conductor.registry());
    let declared = ticks::declare_schedules(conductor.database(), &owners, &schedules).await?;
    let statics = declared.into_iter().filter_map(|(id, task, name)| {
        let crons = conductor.registry().get(&task)?.crons;
        Some((id, crons.iter().find(|cron| cron.name == name)?))
    });
    Ok(statics.collect())
}

/// Sleeps until a schedule is due, and creates the executions of its ticks. Every orchestrator does this; the
/// database accepts each tick once.
pub(super) struct Scheduler {
    conductor: Conductor,
    told: Arc<Notify>,
    failures: Failures,
    statics: Arc<Statics>,
    /// The last computation of payloads, if the round that began it did not wait for its end.
    planning: Option<JoinHandle<TickColumns>>,
    ids: Vec<i64>,
    clock: Clock,
    /// The next pause if another process is faster.
    outdone: Duration,
    /// The next pause if the first of the queued ticks has not ended.
    queued: Duration,
    far: Far,
}

impl Service for Scheduler {
    const UNTIL: Until = Until::Shutdown;

    async fn round(&mut self, _holder: Option<i64>) -> Duration {
        let looked = self.look().await;
        let text = "the schedules cannot be looked at; trying again";
        self.failures.note(self.conductor.outage(), &looked, text);
        looked.unwrap_or(POLL / 5)
    }

    async fn hint(&mut self) {
        self.told.notified().await;
    }
}

impl Scheduler {
    pub(super) fn new(conductor: Conductor, statics: Statics, clock: Clock) -> Self {
        Self {
            told: conductor.notifier().schedules(),
            conductor,
            failures: Failures::default(),
            ids: statics.keys().copied().collect(),
            statics: Arc::new(statics),
            planning: None,
            clock,
            outdone: OUTDONE[0],
            queued: QUEUED[0],
            far: Far::default(),
        }
    }

    /// Computes what to write for these schedules. The application's code makes payloads and may block, so it runs on
    /// a thread of its own, one computation at a time, because it cannot be interrupted. Payloads that are not ready
    /// in time are computed when their executions run.
    async fn plan(&mut self, rows: Vec<DueRow>) -> TickColumns {
        let rows = Arc::new(rows);
        if (self.planning.as_ref()).is_none_or(|planning| planning.is_finished()) {
            let (rows, statics) = (Arc::clone(&rows), Arc::clone(&self.statics));
            let planning = tokio::task::spawn_blocking(move || plan(&rows, &statics, computed));
            let planning = self.planning.insert(planning);
            if let Ok(Ok(ticks)) = tokio::time::timeout(PAYLOADS, planning).await {
                self.planning = None;
                return ticks;
            }
        }
        let blocks =
            |_: &CronDefinition, _| Err(format!("its code does not return within {PAYLOADS:?}"));
        plan(&rows, &self.statics, blocks)
    }

    /// Creates what is due, and returns how long to sleep. If this takes too long, the schedules that it moves on get
    /// new versions, so nothing is done twice.
    async fn look(&mut self) -> Result<Duration, sqlx::Error> {
        let mut session = self.conductor.database().session().await?;
        let looked = tokio::time::timeout(PATIENCE, self.tick(&mut session)).await;
        settled(session, looked, PATIENCE).await
    }

    /// Releases the next queued ticks, and returns when to check again.
    async fn release(&mut self, connection: &mut PgConnection) -> Result<Duration, sqlx::Error> {
        if ticks::release(connection).await? > 0 {
            self.queued = QUEUED[0];
        }
        let pause = self.queued;
        self.queued = QUEUED[1].min(pause * 2);
        Ok(pause)
    }

    async fn tick(&mut self, connection: &mut PgConnection) -> Result<Duration, sqlx::Error> {
        self.far.look(connection).await?;
        let mut rows = ticks::due(connection, &self.ids, MOST).await?;
        let mut pause = POLL;
        let mut queued = false;
        let mut now = DateTime::<Utc>::MIN_UTC;
        rows.retain(|row| {
            if row.id.is_none() {
                now = row.now;
                self.clock.set(row.now, row.shift_ms.unwrap_or_default());
                queued = row.queued == Some(true);
                if let Some(millis) = row.next_due_ms.and_then(|millis| millis.try_into().ok()) {
                    pause = POLL.min(Duration::from_millis(millis));
                }
            }
            row.id.is_some()
        });
        if queued {
            pause = pause.min(self.release(connection).await?);
        }
        if rows.is_empty() {
            self.outdone = OUTDONE[0];
            return Ok(pause);
        }
        let planned = self.plan(rows).await;
        let moved = ticks::write(connection, &planned).await?;
        if usize::try_from(moved) == Ok(planned.ids.len()) {
            // The next round finds when these schedules are due next.
            self.outdone = OUTDONE[0];
            return Ok(Duration::ZERO);
        }
        let outdone = self.outdone;
        self.outdone = OUTDONE[1].min(outdone * 2);
        let next = planned.next.iter().flatten().min();
        let until_next = next.and_then(|next| (*next - now).to_std().ok());
        // If a list was cut, its next tick is already due.
        Ok(pause.min(outdone).min(until_next.unwrap_or(outdone)))
    }
}
