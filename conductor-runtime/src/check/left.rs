//! What workers have left for another build. For records whose types only the running handler knows, nothing else can
//! be checked; the check reads payloads itself.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Finding, Report};
use crate::error::Result;
use crate::registry::Registry;

#[derive(sqlx::FromRow)]
struct Row {
    task: String,
    executions: i64,
    execution: Uuid,
    error: String,
}

pub(super) async fn look(
    registry: &Registry,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let rows: Vec<Row> = sqlx::query_as(
        "select t.name as task, count(*) as executions, (array_agg(w.execution_id order by w.execution_id))[1] as execution,
                (array_agg(w.reason order by w.execution_id))[1] as error
           from (select u.execution_id, u.task_id, u.reason
                   from conductor.unreadable u
                   join conductor.live_executions l on l.id = u.execution_id
                  where l.claim = u.left_claim and l.state = 'pending'
                  limit 10000) w
           join conductor.tasks t on t.id = w.task_id
          group by t.name
          order by t.name",
    )
    .fetch_all(connection)
    .await?;
    // Executions of other programs are read by those programs.
    let mine = rows
        .into_iter()
        .filter(|row| registry.get(&row.task).is_some());
    report.findings.extend(mine.map(|row| Finding::Left {
        executions: u64::try_from(row.executions).unwrap_or_default(),
        task: row.task,
        execution: row.execution,
        error: row.error,
    }));
    Ok(())
}
