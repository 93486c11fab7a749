//! Creates and drops triggers on the user's tables, holding locks only briefly.

use std::time::Duration;

use conductor_postgres::Database;
use conductor_postgres::sqlstate::{DEADLOCK_DETECTED, INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE};
use conductor_postgres::store::rows::{self, Watch};
use conductor_postgres::store::tables;
use sqlx::postgres::types::{Oid, PgInterval};

use super::RowOp;
use super::catalogue::Table;
use crate::error::{Error, Result};

/// How long one try waits for the table's lock; writers of the table wait behind it.
const PATIENCE: PgInterval = PgInterval {
    months: 0,
    days: 0,
    microseconds: 1_000_000,
};
/// The same for dropping a trigger, which is not urgent.
const SHORT_PATIENCE: PgInterval = PgInterval {
    months: 0,
    days: 0,
    microseconds: 200_000,
};
const TRIES: u32 = 6;
/// The pause between two tries, so that waiting writers can proceed; it grows.
const PAUSE: Duration = Duration::from_millis(200);

/// Creates the trigger of an operation, unless it exists.
pub(crate) async fn install(database: &Database, table: &Table, op: RowOp) -> Result<()> {
    let mut tries = Tries::new(table, op);
    loop {
        match rows::install(database, table.oid, op.as_str(), PATIENCE).await {
            Ok(()) => return Ok(()),
            Err(error) => tries.pause(database, error).await?,
        }
    }
}

/// Makes changes enter the event log, and returns the name of their event. With `ddl`, creates a
/// missing trigger.
pub(crate) async fn watch(
    database: &Database,
    table: &Table,
    op: RowOp,
    columns: &[String],
    changed: Option<&[String]>,
    ddl: bool,
) -> Result<String> {
    let watch = Watch {
        relation: table.oid,
        op: op.as_str(),
        columns,
        changed,
        ddl,
        budget: PATIENCE,
    };
    let mut tries = Tries::new(table, op);
    loop {
        match rows::watch(database, &watch).await {
            Ok((event, true)) => return Ok(event),
            Ok((_, false)) => return Err(Error::Table(missing(&table.name, op))),
            Err(error) => tries.pause(database, error).await?,
        }
    }
}

/// Returns the error for a missing trigger if this worker creates none.
pub(crate) fn missing(table: &str, op: RowOp) -> String {
    format!(
        "the table {table} has no trigger for {op}s, and this worker makes none (--no-ddl); apply what the command `triggers --sql` prints"
    )
}

/// Drops a trigger that nothing needs any more. Returns false if that has to wait.
pub(crate) async fn remove(
    database: &Database,
    relation: Oid,
    op: &str,
) -> Result<bool, sqlx::Error> {
    rows::remove(database, relation, op, SHORT_PATIENCE).await
}

/// The tries that are left for one table.
struct Tries<'t> {
    table: &'t Table,
    op: RowOp,
    left: u32,
    pause: Duration,
}

impl<'t> Tries<'t> {
    fn new(table: &'t Table, op: RowOp) -> Self {
        Self {
            table,
            op,
            left: TRIES - 1,
            pause: PAUSE,
        }
    }

    /// Returns when it is time for the next try, or returns the final error.
    async fn pause(&mut self, database: &Database, error: sqlx::Error) -> Result<()> {
        let name = &self.table.name;
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some(LOCK_NOT_AVAILABLE | DEADLOCK_DETECTED) if self.left > 0 => {
                tracing::info!(table = %name, op = %self.op, "the table is in use; its trigger is made a little later");
                tokio::time::sleep(self.pause).await;
                self.pause = self.pause.mul_f64(1.7);
                self.left -= 1;
                Ok(())
            }
            Some(LOCK_NOT_AVAILABLE | DEADLOCK_DETECTED) => Err(Error::Locked {
                table: name.clone(),
                holders: holders(database, self.table.oid).await?,
            }),
            Some(INSUFFICIENT_PRIVILEGE) => Err(Error::Table(format!(
                "this role may not make the trigger for {}s on the table {name}: {error}; grant it `trigger` on the table (and the owner of the schema conductor, who makes it), or let the owner of the schema conductor, or a superuser, apply what the command `triggers --sql` prints and start with --no-ddl",
                self.op
            ))),
            _ => Err(error.into()),
        }
    }
}

/// Returns a description of the sessions that hold locks on a table.
async fn holders(database: &Database, relation: Oid) -> Result<String> {
    let holders = tables::lock_holders(database, relation).await?;
    let holders: Vec<String> = holders
        .into_iter()
        .map(|holder| {
            format!(
                "process {} ({}, its transaction has lasted {} s)",
                holder.pid, holder.state, holder.seconds
            )
        })
        .collect();
    Ok(if holders.is_empty() {
        String::new()
    } else {
        format!("; it is held by {}", holders.join(", "))
    })
}
