use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection};

use super::applied::{Standing, applied};
use super::{Database, Session};
use crate::error::{Error, Result};

/// One file of `migrations/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number; they are applied in this order.
    pub id: i32,
    /// What it brings, in one word.
    pub name: &'static str,
    /// Programs that do not know it must not work on the schema any more: they are told to end before
    /// it is applied. Where it is false, they go on as if it were not there.
    pub breaking: bool,
    pub(super) sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration::breaking(
        1,
        "setup",
        include_str!("../../migrations/0000000001_setup.sql"),
    ),
    Migration::breaking(
        2,
        "registry",
        include_str!("../../migrations/0000000002_registry.sql"),
    ),
    Migration::breaking(
        3,
        "invoke",
        include_str!("../../migrations/0000000003_invoke.sql"),
    ),
    Migration::breaking(
        4,
        "work",
        include_str!("../../migrations/0000000004_work.sql"),
    ),
    Migration::breaking(
        5,
        "control",
        include_str!("../../migrations/0000000005_control.sql"),
    ),
    Migration::breaking(
        6,
        "durable",
        include_str!("../../migrations/0000000006_durable.sql"),
    ),
    Migration::breaking(
        7,
        "schedule",
        include_str!("../../migrations/0000000007_schedule.sql"),
    ),
    Migration::breaking(
        8,
        "limits",
        include_str!("../../migrations/0000000008_limits.sql"),
    ),
    Migration::breaking(
        9,
        "why",
        include_str!("../../migrations/0000000009_why.sql"),
    ),
    Migration::breaking(
        10,
        "events",
        include_str!("../../migrations/0000000010_events.sql"),
    ),
    Migration::breaking(
        11,
        "rows",
        include_str!("../../migrations/0000000011_rows.sql"),
    ),
    Migration::breaking(
        12,
        "roles",
        include_str!("../../migrations/0000000012_roles.sql"),
    ),
];

/// Serialises all migrations of a database; the number is arbitrary and must never change.
const LOCK: i64 = 0x0063_6f6e_6475_6374;

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// How long a breaking migration waits for older processes to end, where nothing else is said.
pub const MIGRATION_DEADLINE: Duration = Duration::from_secs(60);

/// How long it waits for somebody else who migrates, at least.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks whether they have ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Migration {
    const fn breaking(id: i32, name: &'static str, sql: &'static str) -> Self {
        Self {
            id,
            name,
            breaking: true,
            sql,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn sql(&self) -> &'static str {
        self.sql
    }
}

/// All migrations of this binary, in their order.
pub fn migrations() -> &'static [Migration] {
    #[cfg(feature = "testing")]
    if let Some(pretended) = PRETENDED.get() {
        return pretended;
    }
    MIGRATIONS
}

#[cfg(feature = "testing")]
static PRETENDED: std::sync::OnceLock<Vec<Migration>> = std::sync::OnceLock::new();

/// Makes this process one of a later build, which has a migration more.
#[cfg(feature = "testing")]
pub(crate) fn pretend(breaking: bool, sql: &'static str) {
    let mut all = MIGRATIONS.to_vec();
    all.push(Migration {
        id: latest_version() + 1,
        name: "pretended",
        breaking,
        sql,
    });
    // Said twice, the first one stays.
    let _ = PRETENDED.set(all);
}

/// The schema version that this binary brings.
pub fn latest_version() -> i32 {
    migrations().last().map_or(0, |migration| migration.id)
}

/// The schema version that the database has; 0 where there is none.
pub(crate) async fn applied_version(database: &Database) -> Result<i32> {
    let mut session = database.session().await?;
    let seen = applied(&mut session).await;
    Ok(session.settle(seen).await?.version())
}

/// Brings the schema to this binary's version; returns what was applied.
///
/// Safe to call from many processes at once: one applies, the others wait and find nothing to do.
/// All missing migrations are applied in one transaction.
///
/// Where one of them is breaking, the living processes with an older version are told to drain and
/// end, and nothing is applied before the last of them is gone, nor can one start meanwhile. It is an
/// error, which changes nothing, where some are still there after `deadline`.
///
/// A schema that is newer than this binary serves it as well, where all that is newer is compatible.
/// Where something is not, or where the text of a migration has changed since it was applied, that is
/// an error and changes nothing.
pub(crate) async fn migrate(
    database: &Database,
    deadline: Duration,
    begin_anew: &str,
) -> Result<Vec<Migration>> {
    let began = Instant::now();
    let mut session = database.session().await?;
    let fits = require_encoding(&mut session).await;
    if fits.is_err() {
        return session.settle(fits).await.map(|()| Vec::new());
    }
    // The usual start finds everything in place and takes no lock.
    let seen = applied(&mut session).await;
    let seen = match session.settle(seen).await {
        Err(Error::Database(error)) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            // A role that may only invoke cannot look; it does not migrate either.
            return Ok(Vec::new());
        }
        other => other?,
    };
    if seen.missing(begin_anew)?.is_empty() {
        return Ok(Vec::new());
    }
    let mut told = Vec::new();
    loop {
        // In a stricter mode, which may be the database's default, the snapshot would be older than
        // the lock, and what the one before us applied would not be seen.
        let mode = "isolation level read committed read write";
        let mut tx = database.begin_as(mode).await?;
        if !locked(&mut tx).await? {
            let holders = holders(&mut tx).await?;
            tx.end().await?;
            let patience = deadline.max(PATIENCE);
            if began.elapsed() >= patience {
                return Err(kept_out(&holders, patience));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let found = applied(&mut tx).await?;
        let missing = found.missing(begin_anew)?;
        if missing.is_empty() {
            return Ok(missing);
        }
        require_version(&mut tx).await?;
        let breaking = missing.iter().rfind(|migration| migration.breaking);
        let remaining = match breaking.filter(|_| found.standing() != Standing::Empty) {
            Some(breaking) => retire(&mut tx, breaking.id).await?,
            None => Vec::new(),
        };
        if remaining.is_empty() {
            return finish(tx, missing).await;
        }
        // Not held while they drain: their last statements must not meet it, and whoever waits with
        // us takes his turn.
        tx.end().await?;
        if began.elapsed() >= deadline {
            return Err(still_there(&missing, &remaining, deadline));
        }
        if remaining != told {
            tracing::info!(
                version = latest_version(),
                "waiting for processes with an older schema version to end: {}",
                named(&remaining)
            );
            told = remaining;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether nobody else migrates. Any role may hold this lock for any time, so it is not waited for in the
/// server, where nothing ends the wait.
async fn locked(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(LOCK)
        .fetch_one(connection)
        .await?)
}

/// The sessions that have the lock of the migrations.
async fn holders(connection: &mut PgConnection) -> Result<Vec<i32>> {
    Ok(sqlx::query_scalar(
        "select pid from pg_locks
          where locktype = 'advisory' and granted and objsubid = 1 and pid is not null
            and database = (select oid from pg_database where datname = current_database())
            and classid::bigint = $1 >> 32 and objid::bigint = $1 & 4294967295",
    )
    .bind(LOCK)
    .fetch_all(connection)
    .await?)
}

fn kept_out(holders: &[i32], deadline: Duration) -> Error {
    let holders: Vec<String> = holders.iter().map(i32::to_string).collect();
    Error::Schema(format!(
        "nothing was applied: the lock of the migrations has not been free for {}; the server's process {} has it.\n  Either it migrates, and you wait longer (`migrate --wait 10m`), or nobody should have it: end it, `select pg_terminate_backend({})`",
        humantime::format_duration(deadline),
        holders.join(", "),
        holders.first().map_or("…", String::as_str),
    ))
}

/// Processes that a breaking migration has to wait for: host, process id, schema version.
type Older = (String, i32, i32);

async fn retire(connection: &mut PgConnection, version: i32) -> Result<Vec<Older>> {
    Ok(
        sqlx::query_as("select host, pid, version from conductor.retire($1, $2)")
            .bind(version)
            .bind(super::MAX_CRASHES)
            .fetch_all(connection)
            .await?,
    )
}

fn named(older: &[Older]) -> String {
    let one = |(host, pid, version): &Older| {
        let host = if host.is_empty() {
            "an unnamed host"
        } else {
            host
        };
        format!("process {pid} on {host} (version {version})")
    };
    older.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn still_there(missing: &[Migration], older: &[Older], deadline: Duration) -> Error {
    let breaking: Vec<String> = missing
        .iter()
        .filter(|migration| migration.breaking)
        .map(|migration| format!("{} ({})", migration.id, migration.name))
        .collect();
    Error::Schema(format!(
        "nothing was applied: migration {} does not work with older programs, and after {} these have not ended: {}.\n  They have been told to. Stop them and start again, or wait longer: `migrate --wait 10m`",
        breaking.join(", "),
        humantime::format_duration(deadline),
        named(older)
    ))
}

async fn finish(mut tx: Session, missing: Vec<Migration>) -> Result<Vec<Migration>> {
    apply(&mut tx, &missing).await.map_err(|error| match error {
        Error::Database(error) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            Error::Schema(format!(
                "the role of DATABASE_URL may not create the schema \"conductor\" ({error}).\n  Run `migrate` once with a role that may, or: grant create on database … to …"
            ))
        }
        other => other,
    })?;
    tx.end().await?;
    tracing::info!(version = latest_version(), "schema migrated");
    Ok(missing)
}

async fn apply(connection: &mut PgConnection, missing: &[Migration]) -> Result<()> {
    sqlx::raw_sql(
        "create schema if not exists conductor;
         create table if not exists conductor.migrations (
             id integer primary key,
             name text not null,
             checksum text not null,
             breaking boolean not null default true,
             applied_at timestamptz not null default now()
         )",
    )
    .execute(&mut *connection)
    .await?;
    for migration in missing {
        sqlx::raw_sql(AssertSqlSafe(migration.sql))
            .execute(&mut *connection)
            .await?;
        sqlx::query(
            "insert into conductor.migrations (id, name, checksum, breaking)
             values ($1, $2, md5($3), $4)",
        )
        .bind(migration.id)
        .bind(migration.name)
        .bind(migration.sql)
        .bind(migration.breaking)
        .execute(&mut *connection)
        .await?;
    }
    // What is new belongs to those who had the rest.
    sqlx::query("select conductor.grant_roles()")
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn create_roles(database: &Database) -> Result<()> {
    database
        .run(sqlx::query("select conductor.create_roles()"))
        .await
        .map_err(|error| {
            if has_code(&error, INSUFFICIENT_PRIVILEGE) {
                Error::Schema(format!(
                    "the role of DATABASE_URL may not make roles, or does not own the schema \"conductor\" ({error}).\n  Run `migrate --roles` once as one that may (its attribute is CREATEROLE)"
                ))
            } else {
                error.into()
            }
        })?;
    Ok(())
}

async fn require_version(connection: &mut PgConnection) -> Result<()> {
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::integer")
        .fetch_one(connection)
        .await?;
    if version < 140_000 {
        return Err(Error::Schema(format!(
            "the server is PostgreSQL {}; version 14 or later is needed",
            version / 10_000
        )));
    }
    Ok(())
}

/// Texts, JSON and errors are Unicode; in another encoding some could not be stored, each at its own time.
async fn require_encoding(connection: &mut PgConnection) -> Result<()> {
    use sqlx::Row;
    let said = sqlx::raw_sql("select current_setting('server_encoding'), current_database()::text")
        .fetch_one(connection)
        .await?;
    let (encoding, name): (String, String) = (said.try_get(0)?, said.try_get(1)?);
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::Schema(format!(
        "the database {name:?} has the encoding {encoding}, and UTF8 is needed.\n  Make one: `create database {name}_utf8 encoding 'UTF8' template template0` (the server's locale must allow it: else add `lc_collate 'C' lc_ctype 'C'`)"
    )))
}

pub(crate) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.code().as_deref() == Some(code))
}
