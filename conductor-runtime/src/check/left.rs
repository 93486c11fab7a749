//! What workers have left for another build. For records whose types only the running handler knows, nothing else can
//! be checked; the check reads payloads itself.

use conductor_postgres::store::checks;
use sqlx::PgConnection;

use super::{Finding, Report};
use crate::error::Result;
use crate::registry::Registry;

pub(super) async fn look(
    registry: &Registry,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let rows = checks::left(connection).await?;
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
