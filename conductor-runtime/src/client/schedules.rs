use std::future::{Future, IntoFuture};
use std::pin::Pin;

use chrono::{DateTime, Utc};
use conductor_postgres::store::schedules::Stored;
use conductor_postgres::store::{clock, schedules};
use conductor_schedule::{Cron, zone};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Conductor, Schedules};
use crate::error::{Error, Result};
use crate::orchestrator::computed;
use crate::task::CronTick;

/// The details of one schedule, as stored in the database.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ScheduleInfo {
    /// The task that it invokes.
    pub task: String,
    /// Its name. Unique among the task's static schedules, and among its dynamic ones.
    pub name: String,
    /// Whether it was created at run time; otherwise the code declares it.
    pub dynamic: bool,
    /// The cron expression.
    pub cron: String,
    /// The time zone of the expression.
    pub timezone: String,
    /// How missed ticks are handled: `skip`, `once` or `all`.
    pub missed: String,
    /// What a tick does while the previous execution has not ended: `allow` or `skip`.
    pub overlap: String,
    /// The payload as JSON; `None` if the code computes it from the tick.
    pub payload: Option<Box<RawValue>>,
    /// The next tick; `None` if the schedule is paused, faulty, or has had its last tick.
    pub next_at: Option<DateTime<Utc>>,
    /// The last tick that created an execution.
    pub last_at: Option<DateTime<Utc>>,
    /// The execution of that tick.
    pub last_execution: Option<Uuid>,
    /// Whether it is paused.
    pub paused: bool,
    /// Why the rule cannot be parsed, if it was written by hand.
    pub fault: Option<String>,
    /// Whether a living process declares it, or, for a dynamic one, has its task.
    ///
    /// Without one, a static schedule does not tick, and the executions of a dynamic one wait.
    pub served: bool,
    /// Whether newer code no longer declares it. It is removed with the last living process that
    /// does.
    pub retired: bool,
}

impl Schedules<'_> {
    /// Returns all schedules, ordered by task and name.
    pub async fn list(self) -> Result<Vec<ScheduleInfo>> {
        self.conductor.migrate().await?;
        let stored = schedules::list(self.conductor.database()).await?;
        stored.into_iter().map(info).collect()
    }

    /// Pauses a schedule, static or dynamic, until it is resumed. Returns false if there is none.
    ///
    /// If the task has one of each kind by this name, pauses both. The pause is stored in the
    /// database and survives restarts and deploys.
    pub async fn pause(self, task: &str, name: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        if !can_exist(task, name) {
            return Ok(false);
        }
        Ok(schedules::pause(self.conductor.database(), task, name).await?)
    }

    /// Resumes a paused schedule. Returns false if there is none.
    ///
    /// It ticks from now on; ticks during the pause do not count as missed.
    ///
    /// If the task has one of each kind by this name, resumes both.
    pub async fn resume(self, task: &str, name: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        if !can_exist(task, name) {
            return Ok(false);
        }
        Ok(schedules::resume(self.conductor.database(), task, name).await?)
    }

    /// Invokes now what a schedule would invoke, without affecting its ticks.
    ///
    /// Returns the execution's id, or `None` if there is no such schedule.
    ///
    /// If the task has a static and a dynamic schedule by this name, uses the dynamic one.
    ///
    /// # Errors
    /// - [`Error::Payload`] if this program's code cannot compute the payload.
    /// - [`Error::Invalid`] if the code that computes it belongs to another program.
    pub async fn trigger(self, task: &str, name: &str) -> Result<Option<Uuid>> {
        let now = self.conductor.inspect().now().await?;
        if !can_exist(task, name) {
            return Ok(None);
        }
        let declared = self
            .conductor
            .registry()
            .get(task)
            .and_then(|task| task.crons.iter().find(|cron| cron.name == name));
        let known = schedules::has_payload(self.conductor.database(), task, name).await?;
        let payload = match (known, declared) {
            (Some(false), Some(cron)) => Some(computed(cron, CronTick::new(name, now)).map_err(
                |reason| Error::Payload {
                    task: task.to_owned(),
                    reason,
                },
            )?),
            _ => None,
        };
        let payload = payload.as_deref();
        Ok(schedules::trigger(self.conductor.database(), task, name, payload, now).await?)
    }
}

impl<'c> IntoFuture for Schedules<'c> {
    type Output = Result<Vec<ScheduleInfo>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.list())
    }
}

impl Conductor {
    /// Returns the database's time, and by how many milliseconds a test has moved it.
    pub(crate) async fn clock(&self) -> Result<(DateTime<Utc>, i64)> {
        Ok(clock::now_and_shift(self.database()).await?)
    }
}

/// Returns whether a schedule may have these names: Postgres cannot store U+0000.
fn can_exist(task: &str, name: &str) -> bool {
    !task.contains('\0') && !name.contains('\0')
}

fn info(stored: Stored) -> Result<ScheduleInfo> {
    let payload = (stored.payload.map(RawValue::from_string))
        .transpose()
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let mut info = ScheduleInfo {
        task: stored.task,
        name: stored.name,
        dynamic: stored.dynamic,
        cron: stored.cron,
        timezone: stored.timezone,
        missed: stored.missed,
        overlap: stored.overlap,
        payload,
        next_at: stored.next_at,
        last_at: stored.last_at,
        last_execution: stored.last_execution,
        paused: stored.paused,
        fault: stored.fault,
        served: stored.served,
        retired: stored.retired,
    };
    if info.paused || info.fault.is_some() {
        info.next_at = None;
    } else if stored.unplanned {
        // No worker has planned it yet; a worker will compute the same tick.
        match (Cron::parse(&info.cron), zone(&info.timezone)) {
            (Ok(cron), Ok(zone)) => info.next_at = cron.next_after(stored.planned_from, zone),
            (Err(error), _) => info.fault = Some(error.to_string()),
            (_, Err(error)) => info.fault = Some(error.to_string()),
        }
    }
    Ok(info)
}
