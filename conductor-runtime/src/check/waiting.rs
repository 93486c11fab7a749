use std::collections::BTreeMap;

use conductor_postgres::store::checks;
use sqlx::PgConnection;

use super::{Bound, Finding, Report};
use crate::error::Result;
use crate::registry::Registry;

/// Finds the tasks and queues of live executions.
pub(super) async fn look(
    registry: &Registry,
    connection: &mut PgConnection,
    bound: Bound,
    report: &mut Report,
) -> Result<()> {
    // Without a limit, the table is read without the index.
    let limit = i64::try_from(bound.executions).ok();
    let rows = checks::waiting(connection, limit).await?;
    let mut unserved: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        let executions = u64::try_from(row.executions).unwrap_or_default();
        if !row.queue_served {
            *unserved.entry(row.queue).or_default() += executions;
        }
        if registry.get(&row.task).is_none() {
            report.findings.push(Finding::UnknownTask {
                task: row.task,
                executions,
                served: row.task_served,
            });
        }
    }
    let unserved = unserved.into_iter();
    report
        .findings
        .extend(unserved.map(|(queue, executions)| Finding::Unserved { queue, executions }));
    Ok(())
}
