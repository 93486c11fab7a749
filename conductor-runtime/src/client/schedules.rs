use chrono::{DateTime, Utc};
use conductor_postgres::Alone;
use conductor_schedule::{Cron, zone};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::postgres::PgRow;
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
        let rows = sqlx::query(
            "select t.name as task, s.name, s.dynamic, s.cron, s.timezone, s.missed, s.overlap,
                    s.payload::text as payload, conductor.shown(nullif(s.next_at, 'infinity')) as next_at,
                    s.next_at is null as unplanned, conductor.shown(s.planned_from) as planned_from,
                    conductor.shown(s.last_at) as last_at, s.last_execution, s.paused,
                    s.fault, s.retired,
                    exists (select from conductor.orchestrators o
                             where case when s.dynamic then t.id = any (o.task_ids)
                                        else s.id = any (o.schedule_ids) end
                               and o.lease_until > clock_timestamp()) as served
               from conductor.schedules s
               join conductor.tasks t on t.id = s.task_id
              order by t.name, s.dynamic, s.name",
        )
        .all(self.conductor.database())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Pauses a schedule, static or dynamic, until it is resumed. Returns false if there is none.
    ///
    /// If the task has one of each kind by this name, pauses both. The pause is stored in the
    /// database and survives restarts and deploys.
    pub async fn pause(self, task: &str, name: &str) -> Result<bool> {
        self.steer("select conductor.pause_schedule($1, $2)", task, name)
            .await
    }

    /// Resumes a paused schedule. Returns false if there is none.
    ///
    /// It ticks from now on; ticks during the pause do not count as missed.
    ///
    /// If the task has one of each kind by this name, resumes both.
    pub async fn resume(self, task: &str, name: &str) -> Result<bool> {
        self.steer("select conductor.resume_schedule($1, $2)", task, name)
            .await
    }

    async fn steer(self, statement: &'static str, task: &str, name: &str) -> Result<bool> {
        self.conductor.migrate().await?;
        if task.contains('\0') || name.contains('\0') {
            return Ok(false);
        }
        Ok(sqlx::query_scalar(statement)
            .bind(task)
            .bind(name)
            .one(self.conductor.database())
            .await?)
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
        if task.contains('\0') || name.contains('\0') {
            return Ok(None);
        }
        let declared = self
            .conductor
            .registry()
            .get(task)
            .and_then(|task| task.crons.iter().find(|cron| cron.name == name));
        let known: Option<bool> = sqlx::query_scalar(
            "select bool_or(s.payload is not null) from conductor.schedules s
               join conductor.tasks t on t.id = s.task_id
              where t.name = $1 and s.name = $2",
        )
        .bind(task)
        .bind(name)
        .one(self.conductor.database())
        .await?;
        let payload = match (known, declared) {
            (Some(false), Some(cron)) => Some(computed(cron, CronTick::new(name, now)).map_err(
                |reason| Error::Payload {
                    task: task.to_owned(),
                    reason,
                },
            )?),
            _ => None,
        };
        Ok(
            sqlx::query_scalar("select conductor.trigger_schedule($1, $2, $3::json, $4)")
                .bind(task)
                .bind(name)
                .bind(payload)
                .bind(now)
                .one(self.conductor.database())
                .await?,
        )
    }
}

impl Conductor {
    /// Returns the database's time, and by how many milliseconds a test has moved it.
    pub(crate) async fn clock(&self) -> Result<(DateTime<Utc>, i64)> {
        Ok(sqlx::query_as(
            "select conductor.now(), floor(extract(epoch from shift) * 1000)::bigint
               from conductor.clock where only_row",
        )
        .one(self.database())
        .await?)
    }
}

fn read(row: &PgRow) -> Result<ScheduleInfo> {
    let payload: Option<String> = row.try_get("payload")?;
    let payload = payload
        .map(RawValue::from_string)
        .transpose()
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let mut info = ScheduleInfo {
        task: row.try_get("task")?,
        name: row.try_get("name")?,
        dynamic: row.try_get("dynamic")?,
        cron: row.try_get("cron")?,
        timezone: row.try_get("timezone")?,
        missed: row.try_get("missed")?,
        overlap: row.try_get("overlap")?,
        payload,
        next_at: row.try_get("next_at")?,
        last_at: row.try_get("last_at")?,
        last_execution: row.try_get("last_execution")?,
        paused: row.try_get("paused")?,
        fault: row.try_get("fault")?,
        served: row.try_get("served")?,
        retired: row.try_get("retired")?,
    };
    if info.paused || info.fault.is_some() {
        info.next_at = None;
    } else if row.try_get("unplanned")? {
        // No worker has planned it yet; a worker will compute the same tick.
        match (Cron::parse(&info.cron), zone(&info.timezone)) {
            (Ok(cron), Ok(zone)) => {
                info.next_at = cron.next_after(row.try_get("planned_from")?, zone);
            }
            (Err(error), _) => info.fault = Some(error.to_string()),
            (_, Err(error)) => info.fault = Some(error.to_string()),
        }
    }
    Ok(info)
}
