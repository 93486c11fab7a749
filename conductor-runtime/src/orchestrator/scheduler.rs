//! Ticks: declares the schedules of this binary, and creates the executions of ticks that are due.

mod far;
mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_postgres::{Alone, Clock};
use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Conductor;
use crate::error::Result;
use crate::registry::Registry;
use crate::task::CronDefinition;
use crate::worker::{Control, Phase};
use far::Far;
pub(crate) use plan::computed;
use plan::{Row, Ticks};

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

/// The static schedules of this binary, by their ids in the database.
pub(super) type Statics = HashMap<i64, &'static CronDefinition>;

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
    let declared: Vec<(i64, String, String)> =
        sqlx::query_as("select id, task, name from conductor.declare_schedules($1, $2)")
            .bind(owners)
            .bind(schedules)
            .all(conductor.database())
            .await?;
    let statics = declared.into_iter().filter_map(|(id, task, name)| {
        let crons = conductor.registry().get(&task)?.crons;
        Some((id, crons.iter().find(|cron| cron.name == name)?))
    });
    Ok(statics.collect())
}

/// Sleeps until a schedule is due, and creates the executions of its ticks. Every orchestrator does this; the
/// database accepts each tick once.
pub(super) async fn keep(
    conductor: Conductor,
    statics: Statics,
    clock: Clock,
    mut control: watch::Receiver<Control>,
) {
    let told = conductor.notifier().schedules();
    let mut scheduler = Scheduler {
        conductor,
        ids: statics.keys().copied().collect(),
        statics: Arc::new(statics),
        planning: None,
        clock,
        outdone: OUTDONE[0],
        queued: QUEUED[0],
        far: Far::default(),
    };
    let mut failed = false;
    loop {
        let pause = match scheduler.look().await {
            Ok(pause) => {
                failed = false;
                pause
            }
            Err(error) => {
                if !scheduler.conductor.outage().met(&error) && !failed {
                    tracing::warn!(%error, "the schedules cannot be looked at; trying again");
                }
                failed = true;
                POLL / 5
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told.notified() => {}
            () = stopping(&mut control) => {
                // From now on, other processes create the executions of ticks.
                return std::future::pending().await;
            }
        }
    }
}

async fn stopping(control: &mut watch::Receiver<Control>) {
    // Without a sender the orchestrator is gone, and this future with it.
    let _ = control
        .wait_for(|control| control.phase != Phase::Working)
        .await;
}

struct Scheduler {
    conductor: Conductor,
    statics: Arc<Statics>,
    /// The last computation of payloads, if the round that began it did not wait for its end.
    planning: Option<JoinHandle<Ticks>>,
    ids: Vec<i64>,
    clock: Clock,
    /// The next pause if another process is faster.
    outdone: Duration,
    /// The next pause if the first of the queued ticks has not ended.
    queued: Duration,
    far: Far,
}

impl Scheduler {
    /// Computes what to write for these schedules. The application's code makes payloads and may block, so it runs on
    /// a thread of its own, one computation at a time, because it cannot be interrupted. Payloads that are not ready
    /// in time are computed when their executions run.
    async fn plan(&mut self, rows: Vec<Row>) -> Ticks {
        let rows = Arc::new(rows);
        if (self.planning.as_ref()).is_none_or(|planning| planning.is_finished()) {
            let (rows, statics) = (Arc::clone(&rows), Arc::clone(&self.statics));
            let planning =
                tokio::task::spawn_blocking(move || Ticks::of(&rows, &statics, computed));
            let planning = self.planning.insert(planning);
            if let Ok(Ok(ticks)) = tokio::time::timeout(PAYLOADS, planning).await {
                self.planning = None;
                return ticks;
            }
        }
        let blocks =
            |_: &CronDefinition, _| Err(format!("its code does not return within {PAYLOADS:?}"));
        Ticks::of(&rows, &self.statics, blocks)
    }

    /// Runs one round: creates what is due, and returns how long to sleep.
    async fn look(&mut self) -> std::result::Result<Duration, sqlx::Error> {
        let mut session = self.conductor.database().session().await?;
        match tokio::time::timeout(PATIENCE, self.tick(&mut session)).await {
            Ok(looked) => session.settle(looked).await,
            Err(_) => {
                // The statement may still be running, so this connection must not be used again. The schedules that
                // it moves on get new versions, so nothing is done twice.
                session.close_on_drop();
                Err(sqlx::Error::Protocol(format!(
                    "no answer within {PATIENCE:?}"
                )))
            }
        }
    }

    /// Releases the next queued ticks, and returns when to check again.
    async fn release(
        &mut self,
        connection: &mut PgConnection,
    ) -> std::result::Result<Duration, sqlx::Error> {
        let released: i32 = sqlx::query_scalar("select conductor.release_ticks()")
            .fetch_one(connection)
            .await?;
        if released > 0 {
            self.queued = QUEUED[0];
        }
        let pause = self.queued;
        self.queued = QUEUED[1].min(pause * 2);
        Ok(pause)
    }

    async fn tick(
        &mut self,
        connection: &mut PgConnection,
    ) -> std::result::Result<Duration, sqlx::Error> {
        self.far.look(connection).await?;
        let mut rows: Vec<Row> = sqlx::query_as(
            "select id, version, task, name, cron, timezone, former_cron, former_timezone, missed, payload,
                    next_at, planned_from, now, shift_ms, next_due_ms, queued
               from conductor.due_schedules($1, $2)",
        )
        .bind(&self.ids)
        .bind(MOST)
        .fetch_all(&mut *connection)
        .await?;
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
        let ticks = self.plan(rows).await;
        let moved: i32 = sqlx::query_scalar(
            "select conductor.tick(
                p_ids => $1, p_versions => $2, p_next => $3, p_faults => $4, p_schedules => $5,
                p_executions => $6, p_at => $7, p_payloads => $8)",
        )
        .bind(&ticks.ids)
        .bind(&ticks.versions)
        .bind(&ticks.next)
        .bind(&ticks.faults)
        .bind(&ticks.schedules)
        .bind(&ticks.executions)
        .bind(&ticks.at)
        .bind(&ticks.payloads)
        .fetch_one(&mut *connection)
        .await?;
        if usize::try_from(moved) == Ok(ticks.ids.len()) {
            // The next round finds when these schedules are due next.
            self.outdone = OUTDONE[0];
            return Ok(Duration::ZERO);
        }
        let outdone = self.outdone;
        self.outdone = OUTDONE[1].min(outdone * 2);
        let next = ticks.next.iter().flatten().min();
        let until_next = next.and_then(|next| (*next - now).to_std().ok());
        // If a list was cut, its next tick is already due.
        Ok(pause.min(outdone).min(until_next.unwrap_or(outdone)))
    }
}
