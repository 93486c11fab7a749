use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{Bound, Finding, Report};
use crate::error::Result;
use crate::registry::Registry;

#[derive(sqlx::FromRow)]
struct Row {
    task: String,
    queue: String,
    executions: i64,
    task_served: bool,
    queue_served: bool,
}

/// Finds the tasks and queues of live executions.
pub(super) async fn look(
    registry: &Registry,
    connection: &mut PgConnection,
    bound: Bound,
    report: &mut Report,
) -> Result<()> {
    let rows: Vec<Row> = sqlx::query_as(
        "with alive as (
             select o.queue_ids, o.task_ids from conductor.orchestrators o
              where o.lease_until > clock_timestamp()
         ), counted as (
             select w.task_id, count(*) as executions
               from (select l.task_id from conductor.live_executions l order by l.id limit $1) w
              group by w.task_id
         )
         select t.name as task, q.name as queue, c.executions,
                exists (select from alive a where t.id = any (a.task_ids)) as task_served,
                exists (select from alive a where q.id = any (a.queue_ids)) as queue_served
           from counted c
           join conductor.tasks t on t.id = c.task_id
           join conductor.queues q on q.id = t.queue_id
          order by t.name",
    )
    // With a null limit, the table is read without the index.
    .bind(i64::try_from(bound.executions).ok())
    .fetch_all(connection)
    .await?;
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
