//! Ticks: declares the schedules of this binary, and makes the executions of the ticks that are due.

mod far;
mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Conductor;
use crate::db::{Alone, Clock};
use crate::error::Result;
use crate::registry::Registry;
use crate::task::CronDefinition;
use crate::worker::{Control, Phase};
use far::Far;
pub(crate) use plan::computed;
use plan::{Row, Ticks};

/// Where notifications do not come, a schedule that was made elsewhere is found after this time.
const POLL: Duration = Duration::from_secs(5);
/// After another worker was quicker, or has locked what is due: from the first pause, as its
/// transaction may not have committed yet, to the longest.
const OUTDONE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// While ticks wait for one another, how long until it is asked whether the first has ended: from the first
/// pause, after one was made due, to the longest.
const QUEUED: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// How long a look may take: a network that swallows packets says nothing for a quarter of an hour,
/// while a new connection might work.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the application's code may take to make the payloads of what is due.
const PAYLOADS: Duration = Duration::from_secs(5);
/// Most schedules in one look.
const MOST: i32 = 500;

/// The static schedules of this binary, by their ids in the database.
pub(super) type Statics = HashMap<i64, &'static CronDefinition>;

/// The crates that this binary is made of, and what its code schedules, as
/// `conductor.declare_schedules` wants it.
pub(crate) fn declared_schedules() -> (Vec<String>, serde_json::Value) {
    let registry = Registry::global();
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

/// Declares what the code of this binary schedules, and takes away what it no longer does.
pub(super) async fn declare(conductor: &Conductor) -> Result<Statics> {
    let (owners, schedules) = declared_schedules();
    let declared: Vec<(i64, String, String)> =
        sqlx::query_as("select id, task, name from conductor.declare_schedules($1, $2)")
            .bind(owners)
            .bind(schedules)
            .all(conductor.database())
            .await?;
    let statics = declared.into_iter().filter_map(|(id, task, name)| {
        let crons = Registry::global().get(&task)?.crons;
        Some((id, crons.iter().find(|cron| cron.name == name)?))
    });
    Ok(statics.collect())
}

/// Sleeps until a schedule is due, and makes the executions of its ticks. Every orchestrator does;
/// the database takes each tick once.
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
                // The executions of further ticks are for those who stay.
                return std::future::pending().await;
            }
        }
    }
}

async fn stopping(control: &mut watch::Receiver<Control>) {
    // Without a sender the orchestrator is gone, and this with it.
    let _ = control
        .wait_for(|control| control.phase != Phase::Working)
        .await;
}

struct Scheduler {
    conductor: Conductor,
    statics: Arc<Statics>,
    /// The last one, where the look that began it did not wait for its end.
    planning: Option<JoinHandle<Ticks>>,
    ids: Vec<i64>,
    clock: Clock,
    /// The next pause, should somebody else be quicker.
    outdone: Duration,
    /// The next pause, should the first of the queued ticks not have ended.
    queued: Duration,
    far: Far,
}

impl Scheduler {
    /// What is to be written of these. The application's code makes payloads and may block its thread, so it has
    /// one of its own; one at a time, as nothing can end it. What it does not make soon, the executions ask for.
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

    /// Looks once, ticks what is due, and says how long to sleep.
    async fn look(&mut self) -> std::result::Result<Duration, sqlx::Error> {
        let mut session = self.conductor.database().session().await?;
        match tokio::time::timeout(PATIENCE, self.tick(&mut session)).await {
            Ok(looked) => session.settle(looked).await,
            Err(_) => {
                // The statement may still be under way; nobody else must get this connection. What
                // it has moved on, or yet will, matches no version again.
                session.close_on_drop();
                Err(sqlx::Error::Protocol(format!(
                    "no answer within {PATIENCE:?}"
                )))
            }
        }
    }

    /// Lets the next ones of queued ticks run, and says when to look again.
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
        let moved: i32 =
            sqlx::query_scalar("select conductor.tick($1, $2, $3, $4, $5, $6, $7, $8)")
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
            // What was moved on tells when it is due next.
            self.outdone = OUTDONE[0];
            return Ok(Duration::ZERO);
        }
        let outdone = self.outdone;
        self.outdone = OUTDONE[1].min(outdone * 2);
        let next = ticks.next.iter().flatten().min();
        let until_next = next.and_then(|next| (*next - now).to_std().ok());
        // A list that was cut has a next tick that is due already.
        Ok(pause.min(outdone).min(until_next.unwrap_or(outdone)))
    }
}
