//! Triggers on the user's tables: made and dropped under short locks.

use std::time::Duration;

use sqlx::postgres::types::{Oid, PgInterval};

use super::RowOp;
use super::catalogue::Table;
use crate::db::{Alone, Database};
use crate::error::{Error, Result};

/// How long one try waits for the table's lock, and makes its writers wait behind it.
const PATIENCE: PgInterval = PgInterval {
    months: 0,
    days: 0,
    microseconds: 1_000_000,
};
/// To drop a trigger is in no hurry.
const SHORT_PATIENCE: PgInterval = PgInterval {
    months: 0,
    days: 0,
    microseconds: 200_000,
};
const TRIES: u32 = 6;
/// Between two tries, so that those who wait behind the first one get through; grows.
const PAUSE: Duration = Duration::from_millis(200);

const LOCK_NOT_AVAILABLE: &str = "55P03";
const DEADLOCK: &str = "40P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Makes the trigger of an operation, unless it is there.
pub(crate) async fn install(database: &Database, table: &Table, op: RowOp) -> Result<()> {
    let mut tries = Tries::new(table, op);
    loop {
        let make = sqlx::query("select conductor.install_row_trigger($1::oid::regclass, $2, $3)")
            .bind(table.oid)
            .bind(op.as_str())
            .bind(PATIENCE);
        match database.run(make).await {
            Ok(_) => return Ok(()),
            Err(error) => tries.pause(database, error).await?,
        }
    }
}

/// Lets changes enter the log of events; gives the name of the event. With `ddl`, the trigger is made
/// where it is missing.
pub(crate) async fn watch(
    database: &Database,
    table: &Table,
    op: RowOp,
    columns: &[String],
    changed: Option<&[String]>,
    ddl: bool,
) -> Result<String> {
    let mut tries = Tries::new(table, op);
    loop {
        let watched: Result<(String, bool), _> = sqlx::query_as(
            "select event, installed from conductor.watch_rows($1::oid::regclass, $2, $3, $4, $5, $6)",
        )
        .bind(table.oid)
        .bind(op.as_str())
        .bind(columns)
        .bind(changed)
        .bind(ddl)
        .bind(PATIENCE)
        .one(database)
        .await;
        match watched {
            Ok((event, true)) => return Ok(event),
            Ok((_, false)) => return Err(Error::Table(missing(&table.name, op))),
            Err(error) => tries.pause(database, error).await?,
        }
    }
}

/// What somebody reads who makes triggers by hand.
pub(crate) fn missing(table: &str, op: RowOp) -> String {
    format!(
        "the table {table} has no trigger for {op}s, and this worker makes none (--no-ddl); apply what the command `triggers --sql` prints"
    )
}

/// Drops a trigger that nothing needs any more. False where that has to wait for another time.
pub(crate) async fn remove(
    database: &Database,
    relation: Oid,
    op: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.remove_row_trigger($1::oid::regclass, $2, $3)")
        .bind(relation)
        .bind(op)
        .bind(SHORT_PATIENCE)
        .one(database)
        .await
}

/// What is left of the patience with one table.
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

    /// Returns when it is time for the next try, or with the error that ends them.
    async fn pause(&mut self, database: &Database, error: sqlx::Error) -> Result<()> {
        let name = &self.table.name;
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some(LOCK_NOT_AVAILABLE | DEADLOCK) if self.left > 0 => {
                tracing::info!(table = %name, op = %self.op, "the table is in use; its trigger is made a little later");
                tokio::time::sleep(self.pause).await;
                self.pause = self.pause.mul_f64(1.7);
                self.left -= 1;
                Ok(())
            }
            Some(LOCK_NOT_AVAILABLE | DEADLOCK) => Err(Error::Locked {
                table: name.clone(),
                holders: holders(database, self.table.oid).await?,
            }),
            Some(INSUFFICIENT_PRIVILEGE) => Err(Error::Table(format!(
                "this role may not make the trigger for {}s on the table {name}: {error}; grant it `trigger` on the table (and the owner of the schema conductor, who makes it), or let the table's owner apply what the command `triggers --sql` prints and start with --no-ddl",
                self.op
            ))),
            _ => Err(error.into()),
        }
    }
}

/// Who holds locks on a table, for the person who has to decide.
async fn holders(database: &Database, relation: Oid) -> Result<String> {
    let holders: Vec<(i32, String, i64)> = sqlx::query_as(
        "select a.pid, coalesce(a.state, ''), coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::bigint
           from pg_locks l
           join pg_stat_activity a on a.pid = l.pid
          where l.relation = $1 and l.granted and l.pid <> pg_backend_pid()
            and l.database = (select oid from pg_database where datname = current_database())
            and l.mode not in ('AccessShareLock', 'RowShareLock')
          group by 1, 2, 3
          order by 3 desc
          limit 3",
    )
    .bind(relation)
    .all(database)
    .await?;
    let holders: Vec<String> = holders
        .into_iter()
        .map(|(pid, state, seconds)| {
            format!("process {pid} ({state}, its transaction has lasted {seconds} s)")
        })
        .collect();
    Ok(if holders.is_empty() {
        String::new()
    } else {
        format!("; it is held by {}", holders.join(", "))
    })
}
