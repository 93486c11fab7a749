//! What to write for schedules that are due.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, TimeDelta, Utc};
use conductor_postgres::store::ticks::{DueRow, TickColumns};
use conductor_schedule::{Cron, Due, Missed, Tz, zone};
use uuid::Uuid;

use crate::panics::{Panicked, note_places};
use crate::task::{CronDefinition, CronTick};

/// The most executions in one statement; further missed ticks follow in the next rounds.
const MOST_EXECUTIONS: usize = 5000;
/// The most of them for one schedule.
const MOST_OF_ONE: usize = 500;
/// With `missed = "skip"`, how late a tick of a replaced rule may still run.
const GRACE: TimeDelta = TimeDelta::seconds(5);

/// The static schedules of this binary, by their ids in the database.
pub(in crate::orchestrator) type Statics = HashMap<i64, &'static CronDefinition>;

/// Computes the payload of a tick.
pub(super) trait Make: Fn(&CronDefinition, CronTick) -> Result<String, String> {}

impl<F: Fn(&CronDefinition, CronTick) -> Result<String, String>> Make for F {}

/// Plans the ticks of schedules that are due. Payloads of schedules that the code declares are computed by `payload`.
pub(super) fn plan(rows: &[DueRow], statics: &Statics, payload: impl Make) -> TickColumns {
    // An equal share for each, so that a long backlog of one schedule delays no others.
    let limit = (MOST_EXECUTIONS / rows.len().max(1)).clamp(1, MOST_OF_ONE);
    let mut ticks = TickColumns::default();
    for row in rows {
        if let Some(id) = row.id {
            add(
                &mut ticks,
                id,
                row,
                statics.get(&id).copied(),
                limit,
                &payload,
            );
        }
    }
    ticks
}

/// Adds the ticks of one schedule.
fn add(
    ticks: &mut TickColumns,
    id: i64,
    row: &DueRow,
    declared: Option<&CronDefinition>,
    limit: usize,
    payload: &impl Make,
) {
    let (due, fault) = match due(row, limit) {
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
    ticks.ids.push(id);
    ticks.versions.push(row.version.unwrap_or_default());
    ticks.next.push(due.next);
    ticks.faults.push(fault);
    let name = row.name.as_deref().unwrap_or_default();
    for at in due.run {
        let payload = match (row.payload.clone(), declared) {
            (Some(payload), _) => Some(payload),
            (None, Some(declared)) => match payload(declared, CronTick::new(name, at)) {
                Ok(payload) => Some(payload),
                Err(reason) => {
                    tracing::warn!(task = row.task, schedule = name, tick = %at, reason,
                        "the payload of a tick cannot be made; its execution tries again");
                    None
                }
            },
            (None, None) => continue,
        };
        ticks.schedules.push(id);
        ticks.executions.push(Uuid::now_v7());
        ticks.at.push(at);
        ticks.payloads.push(payload);
    }
}

/// Returns which ticks of a schedule are due, and when the next one is.
fn due(row: &DueRow, limit: usize) -> Result<Due, String> {
    let (cron, zone) = rule(&row.cron, &row.timezone)?;
    let missed: Missed = (row.missed.as_deref().unwrap_or_default())
        .parse()
        .map_err(|error: conductor_schedule::UnknownWord| error.to_string())?;
    let planned_from = row.planned_from.unwrap_or(row.now);
    if let (Some(_), Some(first)) = (&row.former_cron, row.next_at) {
        let mut owed = match rule(&row.former_cron, &row.former_timezone) {
            Ok((former, of)) => Due::of(&former, of, missed, first, planned_from, limit),
            Err(_) => Due::default(),
        };
        if missed == Missed::Skip {
            owed.run.retain(|tick| row.now - tick <= GRACE);
        }
        // The former rule is settled. Ticks of the new rule may already be due in the next round.
        if owed.next.is_none_or(|next| next > planned_from) {
            owed.next = cron.next_after(planned_from, zone);
        }
        return Ok(owed);
    }
    let first = match row.next_at {
        Some(next) => Some(next),
        None => cron.next_after(planned_from, zone),
    };
    Ok(first.map_or_else(Due::default, |first| {
        Due::of(&cron, zone, missed, first, row.now, limit)
    }))
}

/// Returns the first tick of a rule after this time; `None` also if the rule cannot be parsed.
pub(super) fn next_tick(cron: &str, timezone: &str, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let (cron, zone) = (Cron::parse(cron).ok()?, zone(timezone).ok()?);
    cron.next_after(after, zone)
}

fn rule(cron: &Option<String>, timezone: &Option<String>) -> Result<(Cron, Tz), String> {
    let cron = Cron::parse(cron.as_deref().unwrap_or_default());
    let zone = zone(timezone.as_deref().unwrap_or_default());
    Ok((
        cron.map_err(|error| error.to_string())?,
        zone.map_err(|error| error.to_string())?,
    ))
}

/// Computes a payload. It is the application's code, so a panic must not stop the other schedules.
pub(crate) fn computed(cron: &CronDefinition, tick: CronTick) -> Result<String, String> {
    note_places();
    match catch_unwind(AssertUnwindSafe(|| (cron.payload)(&tick))) {
        Ok(payload) => payload.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(format!("its code {}", Panicked::of(panic).text)),
    }
}
