//! What tasks listen to in the application's tables.

use sqlx::postgres::types::Oid;
use sqlx::types::JsonValue;

use super::columns::columns;
use crate::{Alone, Database};

columns! {
    /// A trigger that neither a task nor a wait needs.
    pub struct Unneeded {
        /// Its table.
        pub relation: Oid,
        /// The change that fires it.
        pub op: String,
        /// The name of its table.
        pub table_name: String,
    }
}

/// Declares the changes of rows that start tasks of a program, and removes those of its crates
/// (`owners`) that it no longer has.
pub async fn declare(
    database: &Database,
    owners: &[String],
    task_ids: &[i32],
    rules: &JsonValue,
) -> Result<(), sqlx::Error> {
    let declare = sqlx::query("select conductor.declare_row_triggers($1, $2, $3)")
        .bind(owners)
        .bind(task_ids)
        .bind(rules);
    database.run(declare).await.map(drop)
}

/// Returns the name of the trigger of a table and a change, and whether it is enabled. Returns `None`
/// for both if there is no such trigger.
pub async fn trigger(
    database: &Database,
    relation: Oid,
    op: &str,
) -> Result<(Option<String>, Option<bool>), sqlx::Error> {
    sqlx::query_as(
        "select r.name, r.enabled from (select 1) one
               left join lateral conductor.row_trigger($1::oid::regclass, $2) r on true",
    )
    .bind(relation)
    .bind(op)
    .one(database)
    .await
}

/// Returns the triggers that neither a task nor a wait needs.
pub async fn unneeded(database: &Database) -> Result<Vec<Unneeded>, sqlx::Error> {
    sqlx::query_as(
        "select l.relation::oid, l.op, l.table_name from conductor.list_row_triggers() l
          where l.trigger_name is not null and l.tasks = '{}' and l.watches = '{}'",
    )
    .all(database)
    .await
}
