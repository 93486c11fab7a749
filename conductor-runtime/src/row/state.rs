use chrono::{DateTime, Utc};
use conductor_postgres::store::rows::{self, Trigger};
use serde::Serialize;
use serde_json::Value;

use super::catalogue::Table;
use super::{Catalogue, RowOp, columns_of, filter};
use crate::client::{Conductor, Inspect};
use crate::error::{Error, Result};
use crate::task::TaskDefinition;

/// An operation on a table that tasks or waits listen to, or that has a trigger of the library.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RowTriggerInfo {
    /// The table with its schema, quoted if necessary; a number if the table was dropped.
    pub table: String,
    /// The operation.
    pub op: RowOp,
    /// The tasks that it starts.
    pub tasks: Vec<String>,
    /// The events that executions wait for, or waited for in the last seven days.
    pub watches: Vec<String>,
    /// Whether the table has the trigger.
    pub installed: bool,
    /// Whether the trigger is enabled.
    pub enabled: bool,
    /// The statement to apply by hand; `None` if nothing has to be done.
    ///
    /// It creates a missing trigger, or drops one that is not needed.
    pub sql: Option<String>,
}

impl RowTriggerInfo {
    /// Returns whether a task or a wait needs the trigger.
    pub fn is_needed(&self) -> bool {
        !self.tasks.is_empty() || !self.watches.is_empty()
    }
}

/// An error in a trigger.
///
/// The statement that fired the trigger was not affected, but what it would have started was not started.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RowFault {
    /// The table with its schema, quoted if necessary.
    pub table: String,
    /// The operation.
    pub op: String,
    /// The task that was not started; `None` if waits are concerned.
    pub task: Option<String>,
    /// The SQLSTATE.
    pub code: String,
    /// The last message.
    pub message: String,
    /// How often it was noted; it may have occurred more often.
    pub times: i64,
    /// When it was first noted.
    pub first_at: DateTime<Utc>,
    /// When it was last noted.
    pub last_at: DateTime<Utc>,
}

impl Inspect<'_> {
    /// Returns the triggers that exist, and those that tasks and waits need.
    ///
    /// The tasks are those of this binary and those in the database.
    ///
    /// # Errors
    /// [`Error::Refused`] if a task of this binary names a table or column that does not exist.
    pub async fn row_triggers(self) -> Result<Vec<RowTriggerInfo>> {
        self.conductor.migrate().await?;
        let rules = rules(self.conductor).await?;
        let database = self.conductor.database();
        let triggers = rows::triggers(database).await?.into_iter();
        let mut found: Vec<(Trigger, Option<String>)> = triggers.map(|row| (row, None)).collect();
        for rule in &rules {
            let known = found
                .iter_mut()
                .find(|(row, _)| row.relation == rule.table.oid && row.op == rule.op.as_str());
            match known {
                Some((row, _)) if row.tasks.contains(&rule.task.name.to_owned()) => {}
                Some((row, _)) => row.tasks.push(rule.task.name.to_owned()),
                None => found.push((
                    Trigger {
                        relation: rule.table.oid,
                        table_name: rule.table.name.clone(),
                        op: rule.op.as_str().to_owned(),
                        tasks: vec![rule.task.name.to_owned()],
                        watches: Vec::new(),
                        trigger_name: None,
                        enabled: false,
                    },
                    None,
                )),
            }
        }
        for (row, sql) in &mut found {
            let is_needed = !row.tasks.is_empty() || !row.watches.is_empty();
            *sql = match (&row.trigger_name, is_needed) {
                (None, true) => rows::trigger_sql(database, row.relation, &row.op).await?,
                (Some(name), false) => rows::drop_sql(database, name, &row.table_name).await?,
                _ => None,
            };
        }
        let mut triggers: Vec<RowTriggerInfo> = found
            .into_iter()
            .filter_map(|(row, sql)| {
                Some(RowTriggerInfo {
                    op: RowOp::read(&row.op)?,
                    table: row.table_name,
                    tasks: row.tasks,
                    watches: row.watches,
                    installed: row.trigger_name.is_some(),
                    enabled: row.enabled,
                    sql,
                })
            })
            .collect();
        triggers.sort_by(|a, b| (&a.table, a.op).cmp(&(&b.table, b.op)));
        Ok(triggers)
    }

    /// Returns the errors in triggers of the last seven days, the latest first.
    pub async fn row_faults(self) -> Result<Vec<RowFault>> {
        self.conductor.migrate().await?;
        let faults = rows::faults(self.conductor.database()).await?;
        let faults = faults.into_iter().map(|fault| RowFault {
            table: fault.table_name,
            op: fault.op,
            task: fault.task,
            code: fault.code,
            message: fault.message,
            times: fault.times,
            first_at: fault.first_at,
            last_at: fault.last_at,
        });
        Ok(faults.collect())
    }
}

/// What a task listens to, resolved in the catalogue.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) task: &'static TaskDefinition,
    pub(crate) table: Table,
    pub(crate) op: RowOp,
    /// The input of `conductor.declare_row_triggers`.
    pub(crate) declaration: Value,
}

/// Returns what the tasks of this binary listen to.
///
/// # Errors
/// [`Error::Refused`] with all tables and columns that do not exist, and the places of their tasks.
pub(crate) async fn rules(conductor: &Conductor) -> Result<Vec<Rule>> {
    let mut catalogue = Catalogue::new(conductor.database());
    let (mut rules, mut faults): (Vec<Rule>, Vec<String>) = (Vec::new(), Vec::new());
    for task in conductor.registry().tasks() {
        for wanted in task.row_triggers {
            let refuse = |reason: String| {
                format!(
                    "task {:?} at {}, on_{}({:?}): {reason}",
                    task.name, task.place, wanted.op, wanted.table
                )
            };
            let row = (wanted.row)();
            let table = match catalogue.table(wanted.table).await? {
                Ok(table) => table,
                Err(reason) => {
                    faults.push(refuse(reason));
                    continue;
                }
            };
            let columns = match columns_of(&(wanted.schema)().to_value()) {
                Ok(columns) => columns,
                Err(reason) => {
                    faults.push(refuse(format!("the row {row} {reason}")));
                    continue;
                }
            };
            let before = faults.len();
            for column in &columns {
                let fault = table.column_fault(column, &format!("{row} reads"));
                faults.extend(fault.map(&refuse));
            }
            for column in wanted.columns {
                let fault = table.column_fault(column, "`columns` names");
                faults.extend(fault.map(&refuse));
            }
            let filter = wanted.filter_json();
            faults.extend(unread(filter.as_ref(), &columns, row).map(&refuse));
            let again = rules
                .iter()
                .any(|r| r.task.name == task.name && r.table.oid == table.oid && r.op == wanted.op);
            if again {
                faults.push(refuse(format!(
                    "it names the table {} a second time; a change starts a task once, so join the conditions",
                    table.name
                )));
            }
            if faults.len() == before {
                rules.push(Rule {
                    task,
                    op: wanted.op,
                    declaration: serde_json::json!({
                        "task": task.name,
                        "relation": table.oid.0,
                        "op": wanted.op.as_str(),
                        "columns": columns,
                        "changed": (!wanted.columns.is_empty()).then_some(wanted.columns),
                        "filter": filter,
                        "owner": task.owner(),
                    }),
                    table,
                });
            }
        }
    }
    match faults.is_empty() {
        true => Ok(rules),
        false => Err(Error::Refused(faults)),
    }
}

/// Returns an error if a filter names a field by its Rust name and serde uses another name, because that column would
/// never be found.
pub(crate) fn unread(filter: Option<&Value>, columns: &[String], row: &str) -> Option<String> {
    let mut named = Vec::new();
    filter::columns(filter?, &mut named);
    let unread = named.into_iter().find(|name| !columns.contains(name))?;
    Some(format!(
        "`when` names the field {unread:?}, but {row} has no such column in its JSON (it has {}); where serde renames it, give the field the column's name",
        columns.join(", ")
    ))
}
