//! Compares what a start of this binary would declare with what the database has.

use sqlx::PgConnection;

use super::{Change, Finding, Report};
use crate::error::Result;
use crate::orchestrator::{declared_schedules, declared_subscriptions};
use crate::registry::Registry;

#[derive(sqlx::FromRow)]
struct Schedule {
    task: String,
    name: String,
    /// `None` if the code does not declare it; the next one, if the database does not have it.
    declared: Option<String>,
    stored: Option<String>,
    dynamic: Option<bool>,
    payload: Option<String>,
    served: bool,
    /// Newer code has dropped it; it is removed with the last process that declares it.
    retired: bool,
}

/// Decides as `conductor.declare_schedules` does, without changing anything.
pub(super) async fn schedules(
    registry: &Registry,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let (owners, declared) = declared_schedules(registry);
    let rows: Vec<Schedule> = sqlx::query_as(
        "with declared as (
             select d.task, d.name, d.owner,
                    concat_ws(', ', d.cron, d.timezone, 'missed ' || d.missed, 'overlap ' || d.overlap) as words
               from jsonb_to_recordset($2) as d(
                    task text, name text, owner text, cron text, timezone text, missed text, overlap text)
         ), stored as (
             select t.name as task, s.name, s.dynamic, s.owner, s.retired, s.payload::text as payload,
                    concat_ws(', ', s.cron, s.timezone, 'missed ' || s.missed, 'overlap ' || s.overlap) as words,
                    exists (select from conductor.orchestrators o
                             where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()) as served
               from conductor.schedules s
               join conductor.tasks t on t.id = s.task_id
         )
         select coalesce(s.task, d.task) as task, coalesce(s.name, d.name) as name, d.words as declared,
                s.words as stored, s.dynamic, s.payload, coalesce(s.served, false) as served,
                coalesce(s.retired, false) as retired
           from (select * from stored where dynamic or owner = any ($1)
                    or (task, name) in (select e.task, e.name from declared e)) s
           full join declared d on d.task = s.task and d.name = s.name and not s.dynamic
          order by 1, 2",
    )
    .bind(owners)
    .bind(declared)
    .fetch_all(connection)
    .await?;
    for row in rows {
        let known = registry.get(&row.task);
        if row.dynamic == Some(true) {
            let (task, schedule) = (row.task, row.name);
            match known {
                Some(known) => {
                    let payload = row.payload.as_deref().unwrap_or("null");
                    if let Err(error) = known.check_payload(payload) {
                        report.findings.push(Finding::ScheduledPayload {
                            task,
                            schedule,
                            error,
                        });
                    }
                }
                None if !row.served => report
                    .findings
                    .push(Finding::UnknownScheduledTask { task, schedule }),
                None => {}
            }
            continue;
        }
        report.findings.extend(row.change());
    }
    Ok(())
}

impl Schedule {
    /// Returns what a start would change about a schedule that the code declares, or did.
    fn change(self) -> Option<Finding> {
        let change = match (self.declared, self.stored) {
            (Some(declared), Some(stored)) if declared == stored => return None,
            (Some(declared), Some(stored)) => {
                Change::Changed(format!("{stored} becomes {declared}"))
            }
            (Some(_), None) => Change::Added,
            (None, _) if self.retired => return None,
            (None, _) => Change::Removed,
        };
        Some(Finding::Schedule {
            task: self.task,
            schedule: self.name,
            change,
        })
    }
}

#[derive(sqlx::FromRow)]
struct Subscription {
    task: String,
    event: String,
    declared: bool,
    stored: bool,
    served: bool,
}

/// Decides as `conductor.declare_subscriptions` does, without changing anything.
pub(super) async fn subscriptions(
    registry: &Registry,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let (owners, declared) = declared_subscriptions(registry);
    let rows: Vec<Subscription> = sqlx::query_as(
        "with declared as (
             select d.task, d.event, d.n, nullif(d.filter, 'null') as filter, d.event_version
               from jsonb_to_recordset($2) as d(
                    task text, event text, n integer, filter jsonb, event_version integer)
         ), stored as (
             select t.name as task, s.event, s.n, s.filter, s.event_version,
                    exists (select from conductor.orchestrators o
                             where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()) as served
               from conductor.subscriptions s
               join conductor.tasks t on t.id = s.task_id
              where s.owner = any ($1)
         )
         select coalesce(s.task, d.task) as task, coalesce(s.event, d.event) as event,
                d.task is not null as declared, s.task is not null as stored, coalesce(s.served, false) as served
           from stored s
           full join declared d on d.task = s.task and d.event = s.event and d.n = s.n
          where (d.filter, d.event_version) is distinct from (s.filter, s.event_version)
             or d.task is null or s.task is null
          order by 1, 2",
    )
    .bind(owners)
    .bind(declared)
    .fetch_all(connection)
    .await?;
    for row in rows {
        let known = registry.get(&row.task).is_some();
        let change = match (row.declared, row.stored) {
            (true, true) => Change::Changed("another filter or version of the event".to_owned()),
            (true, false) => Change::Added,
            (false, _) if known || !row.served => Change::Removed,
            (false, _) => continue,
        };
        report.findings.push(Finding::Subscription {
            task: row.task,
            event: row.event,
            change,
        });
    }
    Ok(())
}
