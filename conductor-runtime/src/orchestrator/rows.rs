//! Row changes: declares what the tasks of this binary listen to, creates the triggers on the user's tables, and
//! drops those that nothing needs.

use std::collections::BTreeSet;

use conductor_postgres::store::row_triggers;

use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::row::{self, Rule};

/// Finds the tables and columns that tasks name; returns an error before anything is declared.
pub(super) async fn check(conductor: &Conductor) -> Result<Vec<Rule>> {
    row::rules(conductor).await
}

/// Declares the rules, and creates the triggers that they need.
pub(super) async fn declare(
    conductor: &Conductor,
    task_ids: &[i32],
    rules: &[Rule],
    ddl: bool,
) -> Result<()> {
    let owners: BTreeSet<String> = conductor
        .registry()
        .tasks()
        .map(|task| task.owner())
        .collect();
    let owners: Vec<String> = owners.into_iter().collect();
    let declarations: serde_json::Value =
        rules.iter().map(|rule| rule.declaration.clone()).collect();
    let database = conductor.database();
    row_triggers::declare(database, &owners, task_ids, &declarations).await?;
    let mut missing = Vec::new();
    for rule in rules {
        match row_triggers::trigger(database, rule.table.oid, rule.op.as_str()).await? {
            (None, _) if ddl => row::install(database, &rule.table, rule.op).await?,
            (None, _) => missing.push(format!(
                "task {:?} at {}: {}",
                rule.task.name,
                rule.task.place,
                row::missing(&rule.table.name, rule.op)
            )),
            (Some(name), Some(false)) => tracing::warn!(
                table = %rule.table.name, trigger = name,
                "the trigger is disabled, so its changes start nothing"
            ),
            (Some(_), _) => {}
        }
    }
    if !missing.is_empty() {
        return Err(Error::Refused(missing));
    }
    if ddl {
        remove_unneeded(conductor).await?;
    }
    Ok(())
}

/// Drops triggers that neither a task nor a wait needs. A table that is in use is left to the next round.
pub(super) async fn remove_unneeded(conductor: &Conductor) -> Result<(), sqlx::Error> {
    let database = conductor.database();
    for unneeded in row_triggers::unneeded(database).await? {
        let row_triggers::Unneeded {
            relation,
            op,
            table_name: table,
        } = unneeded;
        if row::remove(database, relation, &op).await? {
            tracing::info!(
                table,
                op,
                "the trigger is dropped, as nothing needs it any more"
            );
        } else {
            tracing::debug!(
                table,
                op,
                "the trigger stays for now: the table is in use, or is not ours"
            );
        }
    }
    Ok(())
}
