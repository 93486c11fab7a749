use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection};

use super::applied::{Missing, Standing, applied};
use super::fault::has_code;
use super::migrations::{Migration, latest_version};
use super::{Database, Session};
use crate::error::{Error, Result};
use crate::sqlstate::INSUFFICIENT_PRIVILEGE;

/// Serialises all migrations of a database. The number is arbitrary and must never change.
const LOCK: i64 = 0x0063_6f6e_6475_6374;

/// How long a breaking migration waits for older processes to end by default.
pub const MIGRATION_DEADLINE: Duration = Duration::from_secs(60);

/// How long a migration waits at least for another process that migrates.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it checks whether they have ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Returns the database's schema version; 0 if it has none.
pub async fn applied_version(database: &Database) -> Result<i32> {
    let mut session = database.session().await?;
    let seen = applied(&mut session).await;
    Ok(session.settle(seen).await?.version())
}

/// Brings the schema to this binary's version.
///
/// Many processes may call this at once: one applies, the others wait and find nothing to do. All
/// missing migrations are applied in one transaction.
///
/// If one of them is breaking, living processes with an older version are asked to drain and end.
/// Nothing is applied before the last of them has ended, and none can start meanwhile. If some are
/// still running after `deadline`, returns an error and changes nothing.
///
/// A schema that is newer than this binary is accepted if everything newer is compatible. If
/// something is not, or if the text of a migration has changed since it was applied, returns an error
/// and changes nothing.
pub async fn migrate(database: &Database, deadline: Duration, begin_anew: &str) -> Result<()> {
    let began = Instant::now();
    let mut session = database.session().await?;
    let fits = require_encoding(&mut session).await;
    if fits.is_err() {
        return session.settle(fits).await;
    }
    // Usually nothing is missing, and no lock is taken.
    let seen = applied(&mut session).await;
    let seen = match session.settle(seen).await {
        Err(Error::Database(error)) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            // A role that may only invoke cannot read this; it does not migrate either.
            return Ok(());
        }
        other => other?,
    };
    if seen.missing(begin_anew)?.is_empty() {
        return Ok(());
    }
    let mut told = Vec::new();
    loop {
        // In a stricter mode, which may be the database's default, the snapshot would be older than
        // the lock, and what another process has just applied would not be seen.
        let mode = "isolation level read committed read write";
        let mut tx = database.begin_as(mode).await?;
        if !locked(&mut tx).await? {
            let holders = holders(&mut tx).await?;
            tx.end().await?;
            let budget = deadline.max(PATIENCE);
            if began.elapsed() >= budget {
                return Err(kept_out(&holders, budget));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let found = applied(&mut tx).await?;
        let missing = found.missing(begin_anew)?;
        if missing.is_empty() {
            return Ok(());
        }
        require_version(&mut tx).await?;
        let breaking = missing
            .migrations
            .iter()
            .rfind(|migration| migration.breaking);
        let remaining = match breaking.filter(|_| found.standing() != Standing::Empty) {
            Some(breaking) => retire(&mut tx, breaking.id).await?,
            None => Vec::new(),
        };
        if remaining.is_empty() {
            return finish(tx, &missing).await;
        }
        // The lock is not held while they drain: it must not block their last statements, and other
        // waiting processes may take it meanwhile.
        tx.end().await?;
        if began.elapsed() >= deadline {
            return Err(still_there(&missing.migrations, &remaining, deadline));
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

/// Returns whether no other process migrates. Any role may hold this lock for any time, so it is not
/// awaited in the server, where nothing would end the wait.
async fn locked(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(LOCK)
        .fetch_one(connection)
        .await?)
}

/// Returns the sessions that hold the lock of the migrations.
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

async fn finish(mut tx: Session, missing: &Missing) -> Result<()> {
    apply(&mut tx, missing).await.map_err(|error| match error {
        Error::Database(error) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            Error::Schema(format!(
                "the role of DATABASE_URL may not create the schema \"conductor\", or does not own it ({error}).\n  Run `migrate` once with a role that may, or: grant create on database … to …"
            ))
        }
        other => other,
    })?;
    tx.end().await?;
    tracing::info!(version = latest_version(), "schema migrated");
    Ok(())
}

async fn apply(connection: &mut PgConnection, missing: &Missing) -> Result<()> {
    sqlx::raw_sql(
        // The right to create a schema is asked for even if it exists.
        "do $$ begin
             if to_regnamespace('conductor') is null then
                 create schema conductor;
             end if;
         end $$",
    )
    .execute(&mut *connection)
    .await?;
    act_as_owner(connection).await?;
    sqlx::raw_sql(
        // Names in the bodies of functions are resolved with this path, not with the role's own.
        "set local search_path = pg_catalog, pg_temp;
         create table if not exists conductor.migrations (
             id integer primary key,
             name text not null,
             checksum text not null,
             breaking boolean not null default true,
             applied_at timestamptz not null default now()
         );
         create table if not exists conductor.function_set (
             only_one boolean primary key default true check (only_one),
             version integer[] not null,
             checksum text not null,
             applied_at timestamptz not null default now()
         )",
    )
    .execute(&mut *connection)
    .await?;
    for migration in &missing.migrations {
        run(connection, migration.sql).await?;
        sqlx::query(
            "insert into conductor.migrations (id, name, checksum, breaking)
             values ($1, $2, $3, $4)",
        )
        .bind(migration.id)
        .bind(migration.name)
        .bind(migration.checksum())
        .bind(migration.breaking)
        .execute(&mut *connection)
        .await?;
    }
    if let Some(functions) = missing.functions {
        if missing.is_first {
            require_no_functions(connection).await?;
        }
        for function in functions.functions {
            run(connection, function.sql).await?;
        }
        sqlx::query(
            "insert into conductor.function_set (version, checksum) values ($1, $2)
                 on conflict (only_one) do update
                set version = excluded.version, checksum = excluded.checksum, applied_at = now()",
        )
        .bind(functions.version.as_slice())
        .bind(&functions.checksum)
        .execute(&mut *connection)
        .await?;
    }
    // Roles that had rights on the existing objects get them on the new ones.
    run(
        connection,
        "revoke execute on all functions in schema conductor from public; select conductor.grant_roles()",
    )
    .await
}

/// Makes what is created belong to the owner of the schema, as all else there does.
///
/// A function that runs with its owner's rights must have those on the others. A role that is not a member of the
/// owner continues as itself, and the server refuses what it may not do.
async fn act_as_owner(connection: &mut PgConnection) -> Result<()> {
    let owner: Option<String> = sqlx::query_scalar(
        "select quote_ident(r.rolname) from pg_catalog.pg_namespace n
           join pg_catalog.pg_roles r on r.oid = n.nspowner
          where n.nspname = 'conductor' and r.rolname <> current_user
            and pg_catalog.pg_has_role(current_user, r.oid, 'member')",
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(owner) = owner {
        sqlx::raw_sql(AssertSqlSafe(format!("set local role {owner}")))
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Returns an error if the schema has foreign functions, which `create or replace` might overwrite.
async fn require_no_functions(connection: &mut PgConnection) -> Result<()> {
    let foreign: Option<String> = sqlx::query_scalar(
        "select p.proname::text from pg_catalog.pg_proc p
           join pg_catalog.pg_namespace n on n.oid = p.pronamespace
          where n.nspname = 'conductor'
          order by p.proname limit 1",
    )
    .fetch_optional(connection)
    .await?;
    match foreign {
        None => Ok(()),
        Some(name) => Err(Error::Schema(format!(
            "nothing was applied: the schema \"conductor\" is not empty: function {name:?} already exists, and no migration has made it.\n  Rename that schema, or drop it"
        ))),
    }
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}

/// Creates the roles of the schema, `conductor_client` and `conductor_worker`.
pub async fn create_roles(database: &Database) -> Result<()> {
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

/// Returns an error if the database's encoding is not UTF-8: some texts could then not be stored, and would
/// fail only when they occur.
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
