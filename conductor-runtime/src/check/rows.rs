//! Checks the triggers on the user's tables that this binary's tasks need, and lists their errors.

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
        // Same condition as conductor.row_trigger, which a role that may only read cannot call.
        let there: bool = sqlx::query_scalar(
            "select exists (
                 select from pg_trigger t
                   join pg_proc p on p.oid = t.tgfoid
                   join pg_namespace n on n.oid = p.pronamespace
                  where t.tgrelid = $1 and n.nspname = 'conductor' and p.proname = 'rows_changed'
                    and not t.tgisinternal and t.tgenabled in ('O', 'A')
                    and t.tgtype & case $2 when 'insert' then 4 when 'delete' then 8 else 16 end <> 0)",
        )
        .bind(rule.table.oid)
        .bind(rule.op.as_str())
        .fetch_one(&mut *connection)
        .await?;
        if !there {
            report.findings.push(Finding::RowTriggerMissing {
                task: rule.task.name.to_owned(),
                table: rule.table.name.clone(),
                op: rule.op.as_str().to_owned(),
            });
        }
    }
    let noted: bool = sqlx::query_scalar(
        "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                         where n.nspname = 'conductor' and c.relname = 'row_faults')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if noted {
        let faults: Vec<(String, String, i64, String)> = sqlx::query_as(
            "select coalesce(format('%I.%I', n.nspname, c.relname), f.relation::text), f.op, sum(f.times)::bigint,
                    (array_agg(f.message order by f.last_at desc))[1]
               from conductor.row_faults f
               left join pg_class c on c.oid = f.relation
               left join pg_namespace n on n.oid = c.relnamespace
              group by f.relation, n.nspname, c.relname, f.op
              order by 1, 2",
        )
        .fetch_all(connection)
        .await?;
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
