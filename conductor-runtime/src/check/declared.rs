//! Compares what a start of this binary would declare with what the database has.

use conductor_postgres::store::checks::{self, Schedule};
use sqlx::PgConnection;

use super::{Change, Finding, Report};
use crate::error::Result;
use crate::orchestrator::{declared_schedules, declared_subscriptions};
use crate::registry::Registry;

/// Finds what a start would change about schedules.
pub(super) async fn schedules(
    registry: &Registry,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let (owners, declared) = declared_schedules(registry);
    let rows = checks::schedules(connection, owners, declared).await?;
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
        report.findings.extend(change(row));
    }
    Ok(())
}

/// Returns what a start would change about a schedule that the code declares, or did.
fn change(row: Schedule) -> Option<Finding> {
    let change = match (row.declared, row.stored) {
        (Some(declared), Some(stored)) if declared == stored => return None,
        (Some(declared), Some(stored)) => Change::Changed(format!("{stored} becomes {declared}")),
        (Some(_), None) => Change::Added,
        (None, _) if row.retired => return None,
        (None, _) => Change::Removed,
    };
    Some(Finding::Schedule {
        task: row.task,
        schedule: row.name,
        change,
    })
}

/// Finds what a start would change about subscriptions.
pub(super) async fn subscriptions(
    registry: &Registry,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let (owners, declared) = declared_subscriptions(registry);
    let rows = checks::subscriptions(connection, owners, declared).await?;
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
