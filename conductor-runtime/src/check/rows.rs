//! Checks the triggers on the user's tables that this binary's tasks need, and lists their errors.

use conductor_postgres::store::rows;
use sqlx::PgConnection;

use super::{Finding, Report};
use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::row;

pub(super) async fn look(
    conductor: &Conductor,
    connection: &mut PgConnection,
    report: &mut Report,
) -> Result<()> {
    let rules = match row::rules(conductor).await {
        Ok(rules) => rules,
        Err(Error::Refused(faults)) => {
            let faults = faults.into_iter();
            report
                .findings
                .extend(faults.map(|error| Finding::RowSource { error }));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for rule in &rules {
        let (table, op) = (rule.table.oid, rule.op.as_str());
        let there = rows::has_trigger(connection, table, op).await?;
        if !there {
            report.findings.push(Finding::RowTriggerMissing {
                task: rule.task.name.to_owned(),
                table: rule.table.name.clone(),
                op: rule.op.as_str().to_owned(),
            });
        }
    }
    if rows::has_faults(connection).await? {
        let faults = rows::fault_counts(connection).await?;
        let faults = faults.into_iter();
        report
            .findings
            .extend(faults.map(|(table, op, times, error)| Finding::RowFault {
                table,
                op,
                times: times.unsigned_abs(),
                error,
            }));
    }
    Ok(())
}
