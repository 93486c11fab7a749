use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::error::{Error, Result};

/// One file of `migrations/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number; they are applied in this order.
    pub id: i32,
    /// What it brings, in one word.
    pub name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        id: 1,
        name: "setup",
        sql: include_str!("../../migrations/0000000001_setup.sql"),
    },
    Migration {
        id: 2,
        name: "registry",
        sql: include_str!("../../migrations/0000000002_registry.sql"),
    },
    Migration {
        id: 3,
        name: "invoke",
        sql: include_str!("../../migrations/0000000003_invoke.sql"),
    },
    Migration {
        id: 4,
        name: "work",
        sql: include_str!("../../migrations/0000000004_work.sql"),
    },
    Migration {
        id: 5,
        name: "control",
        sql: include_str!("../../migrations/0000000005_control.sql"),
    },
    Migration {
        id: 6,
        name: "durable",
        sql: include_str!("../../migrations/0000000006_durable.sql"),
    },
    Migration {
        id: 7,
        name: "schedule",
        sql: include_str!("../../migrations/0000000007_schedule.sql"),
    },
    Migration {
        id: 8,
        name: "limits",
        sql: include_str!("../../migrations/0000000008_limits.sql"),
    },
    Migration {
        id: 9,
        name: "why",
        sql: include_str!("../../migrations/0000000009_why.sql"),
    },
    Migration {
        id: 10,
        name: "events",
        sql: include_str!("../../migrations/0000000010_events.sql"),
    },
];

/// Serialises all migrations of a database; the number is arbitrary and must never change.
const LOCK: i64 = 0x0063_6f6e_6475_6374;

const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Migration {
    #[cfg(feature = "testing")]
    pub(crate) fn sql(&self) -> &'static str {
        self.sql
    }
}

/// All migrations of this binary, in their order.
pub fn migrations() -> &'static [Migration] {
    MIGRATIONS
}

/// The schema version that this binary brings.
pub fn latest_version() -> i32 {
    MIGRATIONS.last().map_or(0, |migration| migration.id)
}

/// The schema version that the database has; 0 where there is none.
pub async fn applied_version(pool: &PgPool) -> Result<i32> {
    let mut connection = pool.acquire().await?;
    Ok(applied(&mut connection)
        .await?
        .last()
        .map_or(0, |(id, _)| *id))
}

/// Brings the schema to this binary's version; returns what was applied.
///
/// Safe to call from many processes at once: one applies, the others wait and find nothing to do.
/// All missing migrations are applied in one transaction. A schema newer than the binary, or a
/// migration whose text has changed since it was applied, is an error and changes nothing.
pub async fn migrate(pool: &PgPool) -> Result<Vec<Migration>> {
    let mut connection = pool.acquire().await?;
    // The usual start finds everything in place and takes no lock.
    let seen = match applied(&mut connection).await {
        Err(Error::Database(error)) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            // A role that may only invoke cannot look; it does not migrate either.
            return Ok(Vec::new());
        }
        other => other?,
    };
    if missing(&seen)?.is_empty() {
        return Ok(Vec::new());
    }

    // In a stricter mode, which may be the database's default, the snapshot would be older than
    // the lock, and what the one before us applied would not be seen.
    let mut tx = connection
        .begin_with("begin isolation level read committed read write")
        .await?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *tx)
        .await?;
    let missing = missing(&applied(&mut tx).await?)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    require_version(&mut tx).await?;
    apply(&mut tx, &missing).await.map_err(|error| match error {
        Error::Database(error) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            Error::Schema(format!(
                "the role of DATABASE_URL may not create the schema \"conductor\" ({error}).\n  Run `migrate` once with a role that may, or: grant create on database … to …"
            ))
        }
        other => other,
    })?;
    tx.commit().await?;
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
            "insert into conductor.migrations (id, name, checksum) values ($1, $2, md5($3))",
        )
        .bind(migration.id)
        .bind(migration.name)
        .bind(migration.sql)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The applied migrations, each with whether its text is the one that this binary has.
async fn applied(connection: &mut PgConnection) -> Result<Vec<(i32, bool)>> {
    // By a look into the tables: to_regclass may answer from the session's cache, which waiting for
    // the lock does not refresh, that there is still no schema.
    let exists: bool = sqlx::query_scalar(
        "select exists (
             select from pg_catalog.pg_class c
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where n.nspname = 'conductor' and c.relname = 'migrations')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let ids: Vec<i32> = MIGRATIONS.iter().map(|m| m.id).collect();
    let texts: Vec<&str> = MIGRATIONS.iter().map(|m| m.sql).collect();
    Ok(sqlx::query_as(
        "select m.id, coalesce(m.checksum = md5(known.sql), false)
           from conductor.migrations m
           left join unnest($1::integer[], $2::text[]) as known(id, sql) on known.id = m.id
          order by m.id",
    )
    .bind(ids)
    .bind(texts)
    .fetch_all(connection)
    .await?)
}

fn missing(applied: &[(i32, bool)]) -> Result<Vec<Migration>> {
    let newest = applied.last().map_or(0, |(id, _)| *id);
    if newest > latest_version() {
        return Err(Error::Schema(format!(
            "the database has version {newest} and this binary knows {}; deploy a newer build of this program",
            latest_version()
        )));
    }
    if let Some((id, _)) = applied.iter().find(|(_, same)| !same) {
        return Err(Error::Schema(format!(
            "migration {id} is not the one that was applied to this database: the two come from different builds.\n  Before the first release that is expected: `drop schema conductor cascade` and start again"
        )));
    }
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| !applied.iter().any(|(id, _)| *id == migration.id))
        .copied()
        .collect())
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

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.code().as_deref() == Some(code))
}
