use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor_schedule::{Cron, Due, Missed, zone};
use serde_json::json;
use sqlx::FromRow;
use tokio::sync::watch;
use uuid::Uuid;

use crate::client::Conductor;
use crate::db::Clock;
use crate::error::Result;
use crate::registry::Registry;
use crate::task::{CronDefinition, CronTick};
use crate::worker::{Control, Phase};

/// Where notifications do not come, a schedule that was made elsewhere is found after this time.
const POLL: Duration = Duration::from_secs(5);
/// After another worker was quicker: its transaction may not have committed yet.
const OUTDONE: Duration = Duration::from_millis(10);
/// Most schedules in one look, and most missed ticks of one that are made up for at once.
const MOST: usize = 500;

/// The static schedules of this binary, by their ids in the database.
pub(super) type Statics = HashMap<i64, &'static CronDefinition>;

/// Declares what the code of this binary schedules, and takes away what it no longer does.
pub(super) async fn declare(conductor: &Conductor, task_ids: &[i32]) -> Result<Statics> {
    let registry = Registry::global();
    let packages: BTreeSet<&str> = registry.tasks().map(|task| task.package).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let schedules: serde_json::Value = registry
        .tasks()
        .flat_map(|task| task.crons.iter().map(move |cron| (task, cron)))
        .map(|(task, cron)| {
            json!({
                "task": task.name,
                "name": cron.name,
                "package": task.package,
                "cron": cron.cron,
                "timezone": cron.timezone,
                "missed": cron.missed.as_str(),
                "overlap": cron.overlap.as_str(),
            })
        })
        .collect();
    let declared: Vec<(i64, String, String)> =
        sqlx::query_as("select id, task, name from conductor.declare_schedules($1, $2, $3)")
            .bind(packages)
            .bind(task_ids)
            .bind(schedules)
            .fetch_all(conductor.pool())
            .await?;
    let statics = declared.into_iter().filter_map(|(id, task, name)| {
        let crons = registry.get(&task)?.crons;
        Some((id, crons.iter().find(|cron| cron.name == name)?))
    });
    Ok(statics.collect())
}

/// Ticks: sleeps until a schedule is due, and makes the executions of its ticks. Every orchestrator
/// does; the database takes each tick once.
pub(super) async fn keep(
    conductor: Conductor,
    statics: Statics,
    clock: Clock,
    mut control: watch::Receiver<Control>,
) {
    let told = conductor.notifier().schedules();
    let ids: Vec<i64> = statics.keys().copied().collect();
    let mut failed = false;
    loop {
        let pause = match round(&conductor, &statics, &ids, &clock).await {
            Ok(pause) => {
                failed = false;
                pause.min(POLL)
            }
            Err(error) => {
                if !failed {
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

#[derive(Debug, FromRow)]
struct Row {
    id: Option<i64>,
    version: Option<i64>,
    task: Option<String>,
    name: Option<String>,
    cron: Option<String>,
    timezone: Option<String>,
    missed: Option<String>,
    payload: Option<String>,
    next_at: Option<DateTime<Utc>>,
    planned_from: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    shift_ms: Option<i64>,
    next_due_ms: Option<i64>,
}

/// What is to be written of the schedules that were due, as the arrays that travel.
#[derive(Debug, Default)]
struct Ticks {
    ids: Vec<i64>,
    versions: Vec<i64>,
    next: Vec<Option<DateTime<Utc>>>,
    faults: Vec<Option<String>>,
    schedules: Vec<i64>,
    executions: Vec<Uuid>,
    at: Vec<DateTime<Utc>>,
    payloads: Vec<String>,
}

/// Looks once, ticks what is due, and says how long to sleep.
async fn round(
    conductor: &Conductor,
    statics: &Statics,
    ids: &[i64],
    clock: &Clock,
) -> Result<Duration, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, version, task, name, cron, timezone, missed, payload, next_at, planned_from, now,
                shift_ms, next_due_ms
           from conductor.due_schedules($1, $2)",
    )
    .bind(ids)
    .bind(i32::try_from(MOST).unwrap_or(i32::MAX))
    .fetch_all(conductor.pool())
    .await?;
    let mut ticks = Ticks::default();
    let mut pause = POLL;
    for row in rows {
        match row.id {
            Some(id) => ticks.plan(id, row, statics.get(&id).copied()),
            None => {
                clock.set(row.now, row.shift_ms.unwrap_or_default());
                if let Some(millis) = row.next_due_ms.and_then(|millis| millis.try_into().ok()) {
                    pause = Duration::from_millis(millis);
                }
            }
        }
    }
    if ticks.ids.is_empty() {
        return Ok(pause);
    }
    let made: i32 = sqlx::query_scalar("select conductor.tick($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(&ticks.ids)
        .bind(&ticks.versions)
        .bind(&ticks.next)
        .bind(&ticks.faults)
        .bind(&ticks.schedules)
        .bind(&ticks.executions)
        .bind(&ticks.at)
        .bind(&ticks.payloads)
        .fetch_one(conductor.pool())
        .await?;
    // What was moved on tells when it is due next.
    Ok(if made == 0 { OUTDONE } else { Duration::ZERO })
}

impl Ticks {
    fn plan(&mut self, id: i64, row: Row, declared: Option<&CronDefinition>) {
        let (due, fault) = match due(&row) {
            Ok(due) => (due, None),
            Err(fault) => {
                tracing::error!(
                    task = row.task,
                    schedule = row.name,
                    fault,
                    "a schedule cannot be read"
                );
                (Due::default(), Some(fault))
            }
        };
        if due.skipped > 0 {
            tracing::warn!(
                task = row.task,
                schedule = row.name,
                ticks = due.skipped,
                missed = row.missed,
                "ticks were missed"
            );
        }
        self.ids.push(id);
        self.versions.push(row.version.unwrap_or_default());
        self.next.push(due.next);
        self.faults.push(fault);
        let name = row.name.unwrap_or_default();
        for at in due.run {
            let payload = match (row.payload.clone(), declared) {
                (Some(payload), _) => payload,
                (None, Some(declared)) => match computed(declared, CronTick::new(&name, at)) {
                    Ok(payload) => payload,
                    Err(reason) => {
                        tracing::error!(task = row.task, schedule = name, tick = %at, reason,
                            "the payload of a tick cannot be made; the tick is left out");
                        continue;
                    }
                },
                (None, None) => continue,
            };
            self.schedules.push(id);
            self.executions.push(Uuid::now_v7());
            self.at.push(at);
            self.payloads.push(payload);
        }
    }
}

/// Which ticks of a schedule are due, and when the next one is.
fn due(row: &Row) -> std::result::Result<Due, String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let cron = Cron::parse(&text(&row.cron)).map_err(|error| error.to_string())?;
    let zone = zone(&text(&row.timezone)).map_err(|error| error.to_string())?;
    let missed: Missed = text(&row.missed)
        .parse()
        .map_err(|error: conductor_schedule::UnknownWord| error.to_string())?;
    let first = match row.next_at {
        Some(next) => Some(next),
        None => cron.next_after(row.planned_from.unwrap_or(row.now), zone),
    };
    Ok(first.map_or_else(Due::default, |first| {
        Due::of(&cron, zone, missed, first, row.now, MOST)
    }))
}

/// The user's code makes the payload; its panic must not stop all other schedules.
pub(crate) fn computed(
    cron: &CronDefinition,
    tick: CronTick,
) -> std::result::Result<String, String> {
    match catch_unwind(AssertUnwindSafe(|| (cron.payload)(&tick))) {
        Ok(payload) => payload.map_err(|error| format!("{error:#}")),
        Err(_) => Err("its code panicked".to_owned()),
    }
}
