//! Row changes: triggers on the application's tables, and the errors in them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::types::{Oid, PgInterval};

use super::columns::columns;
use crate::{Alone, Database};

columns! {
    /// A trigger that exists, or that tasks or waits need.
    pub struct Trigger {
        /// The table.
        pub relation: Oid,
        /// The table with its schema, quoted if necessary.
        pub table_name: String,
        /// The operation.
        pub op: String,
        /// The tasks that it starts.
        pub tasks: Vec<String>,
        /// The events that executions wait for.
        pub watches: Vec<String>,
        /// Its name; `None` if it does not exist.
        pub trigger_name: Option<String>,
        /// Whether it is enabled.
        pub enabled: bool,
    }

    /// An error in a trigger.
    pub struct Fault {
        /// The table with its schema, quoted if necessary.
        pub table_name: String,
        /// The operation.
        pub op: String,
        /// The task that was not started; `None` if waits are concerned.
        pub task: Option<String>,
        /// The SQLSTATE.
        pub code: String,
        /// The last message.
        pub message: String,
        /// How often it was noted.
        pub times: i64,
        /// When it was first noted.
        pub first_at: DateTime<Utc>,
        /// When it was last noted.
        pub last_at: DateTime<Utc>,
    }
}

/// A row change that enters the event log.
#[derive(Debug)]
pub struct Watch<'a> {
    /// The table.
    pub relation: Oid,
    /// The operation.
    pub op: &'a str,
    /// The columns that the event has.
    pub columns: &'a [String],
    /// Only changes of these columns; `None` for all changes.
    pub changed: Option<&'a [String]>,
    /// Whether to create a missing trigger.
    pub ddl: bool,
    /// How long to wait for the table's lock.
    pub budget: PgInterval,
}

/// Returns the triggers that exist, and those that tasks and waits of the database need.
pub async fn triggers(database: &Database) -> Result<Vec<Trigger>, sqlx::Error> {
    sqlx::query_as(
            "select l.relation::oid as relation, l.table_name, l.op, l.tasks, l.watches, l.trigger_name, l.enabled
               from conductor.list_row_triggers() l",
    )
    .all(database)
    .await
}

/// Returns the statement that creates a trigger; `None` if the table was dropped.
pub async fn trigger_sql(
    database: &Database,
    relation: Oid,
    op: &str,
) -> Result<Option<String>, sqlx::Error> {
    let sql: Option<Option<String>> =
        sqlx::query_scalar("select conductor.row_trigger_sql($1::oid::regclass, $2)")
            .bind(relation)
            .bind(op)
            .optional(database)
            .await?;
    Ok(sql.flatten())
}

/// Returns the statement that drops the trigger of this name on a table, whose name is quoted already.
pub async fn drop_sql(
    database: &Database,
    trigger: &str,
    table: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select format('drop trigger %I on ', $1) || $2")
        .bind(trigger)
        .bind(table)
        .optional(database)
        .await
}

/// Returns the errors in triggers, the latest first.
pub async fn faults(database: &Database) -> Result<Vec<Fault>, sqlx::Error> {
    sqlx::query_as(
            "select table_name, op, task, code, message, times, first_at, last_at from conductor.list_row_faults()",
    )
    .all(database)
    .await
}

/// Creates the trigger of an operation, unless it exists. Waits at most `budget` for the table's lock.
///
/// Raises `INVALID_ARGUMENT`, `INSUFFICIENT_PRIVILEGE`, `LOCK_NOT_AVAILABLE`; `DEADLOCK_DETECTED` is possible.
pub async fn install(
    database: &Database,
    relation: Oid,
    op: &str,
    budget: PgInterval,
) -> Result<(), sqlx::Error> {
    let install = sqlx::query("select conductor.install_row_trigger($1::oid::regclass, $2, $3)")
        .bind(relation)
        .bind(op)
        .bind(budget);
    database.run(install).await.map(drop)
}

/// Makes a row change enter the event log. Returns the name of its event, and whether the table has the trigger.
///
/// Raises the codes of [`install`], and `UNDEFINED_COLUMN`.
pub async fn watch(database: &Database, watch: &Watch<'_>) -> Result<(String, bool), sqlx::Error> {
    sqlx::query_as(
        "select event, installed from conductor.watch_rows($1::oid::regclass, $2, $3, $4, $5, $6)",
    )
    .bind(watch.relation)
    .bind(watch.op)
    .bind(watch.columns)
    .bind(watch.changed)
    .bind(watch.ddl)
    .bind(watch.budget)
    .one(database)
    .await
}

/// Drops a trigger that nothing needs any more. Returns false if that has to wait.
///
/// Raises `LOCK_NOT_AVAILABLE`.
pub async fn remove(
    database: &Database,
    relation: Oid,
    op: &str,
    budget: PgInterval,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.remove_row_trigger($1::oid::regclass, $2, $3)")
        .bind(relation)
        .bind(op)
        .bind(budget)
        .one(database)
        .await
}

/// Returns whether a table has the enabled trigger of an operation. The condition is that of `conductor.row_trigger`,
/// which a role that may only read cannot call.
pub async fn has_trigger(
    connection: &mut PgConnection,
    relation: Oid,
    op: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
            "select exists (
                 select from pg_trigger t
                   join pg_proc p on p.oid = t.tgfoid
                   join pg_namespace n on n.oid = p.pronamespace
                  where t.tgrelid = $1 and n.nspname = 'conductor' and p.proname = 'rows_changed'
                    and not t.tgisinternal and t.tgenabled in ('O', 'A')
                    and t.tgtype & case $2 when 'insert' then 4 when 'delete' then 8 else 16 end <> 0)",
    )
    .bind(relation)
    .bind(op)
    .fetch_one(connection)
    .await
}

/// Returns whether the schema has a table of errors in triggers.
pub async fn has_faults(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                         where n.nspname = 'conductor' and c.relname = 'row_faults')",
    )
    .fetch_one(connection)
    .await
}

/// Returns the errors in triggers by table and operation: how often they were noted, and the last message. Calls no
/// function of the library.
pub async fn fault_counts(
    connection: &mut PgConnection,
) -> Result<Vec<(String, String, i64, String)>, sqlx::Error> {
    sqlx::query_as(
            "select coalesce(format('%I.%I', n.nspname, c.relname), f.relation::text), f.op, sum(f.times)::bigint,
                    (array_agg(f.message order by f.last_at desc))[1]
               from conductor.row_faults f
               left join pg_class c on c.oid = f.relation
               left join pg_namespace n on n.oid = c.relnamespace
              group by f.relation, n.nspname, c.relname, f.op
              order by 1, 2",
    )
    .fetch_all(connection)
    .await
}
