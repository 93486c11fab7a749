use sqlx::PgConnection;

use super::migrate::{Migration, latest_version, migrations};
use crate::error::{Error, Result};

/// The migrations that a database has.
#[derive(Debug, Default)]
pub(crate) struct Applied(Vec<Row>);

#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: i32,
    breaking: bool,
    /// Whether the text is the one that this binary has; none where it has no such migration.
    same: Option<bool>,
}

/// How the schema stands to this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none.
    Empty,
    /// This binary would apply migrations.
    Older,
    Current,
    /// It has migrations that this binary does not know, and that do not concern it.
    NewerCompatible,
    /// It has a migration that this binary does not know and must not work with.
    NewerBreaking(i32),
    /// This migration has another text here than in the database.
    Changed(i32),
}

impl Applied {
    pub(crate) fn version(&self) -> i32 {
        self.0.last().map_or(0, |row| row.id)
    }

    pub(crate) fn standing(&self) -> Standing {
        let latest = latest_version();
        if self.0.is_empty() {
            return Standing::Empty;
        }
        let newer = || self.0.iter().filter(|row| row.id > latest);
        if let Some(row) = newer().rfind(|row| row.breaking) {
            return Standing::NewerBreaking(row.id);
        }
        let mut known = self.0.iter().filter(|row| row.id <= latest);
        if let Some(row) = known.find(|row| row.same != Some(true)) {
            return Standing::Changed(row.id);
        }
        if self.lacking().next().is_some() {
            return Standing::Older;
        }
        match newer().next() {
            Some(_) => Standing::NewerCompatible,
            None => Standing::Current,
        }
    }

    /// What this binary would apply.
    ///
    /// # Errors
    /// The binary and the schema do not fit; `begin_anew` says how to have a database without one.
    pub(crate) fn missing(&self, begin_anew: &str) -> Result<Vec<Migration>> {
        match self.standing() {
            Standing::NewerBreaking(id) => Err(too_new(id)),
            Standing::Changed(id) => Err(Error::Schema(format!(
                "migration {id} is not the one that was applied to this database: the two come from different builds.\n  Before the first release that is expected. To begin anew: {begin_anew}"
            ))),
            _ => Ok(self.lacking().collect()),
        }
    }

    fn lacking(&self) -> impl Iterator<Item = Migration> {
        migrations()
            .iter()
            .filter(|migration| !self.0.iter().any(|row| row.id == migration.id))
            .copied()
    }
}

/// This migration was applied, or is about to be, and this binary cannot work with it.
pub(crate) fn too_new(id: i32) -> Error {
    Error::Schema(format!(
        "the database has version {id}, which breaks with programs that do not know it, and this binary knows {}; deploy a newer build of this program",
        latest_version()
    ))
}

/// Reads which migrations were applied; none where there is no schema.
pub(crate) async fn applied(connection: &mut PgConnection) -> Result<Applied> {
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
        return Ok(Applied::default());
    }
    let ids: Vec<i32> = migrations().iter().map(|m| m.id).collect();
    let texts: Vec<&str> = migrations().iter().map(|m| m.sql).collect();
    // A table from before migrations were marked has no such column.
    let rows = sqlx::query_as(
        "select m.id, coalesce((to_jsonb(m)->>'breaking')::boolean, true) as breaking,
                m.checksum = md5(known.sql) as same
           from conductor.migrations m
           left join unnest($1::integer[], $2::text[]) as known(id, sql) on known.id = m.id
          order by m.id",
    )
    .bind(ids)
    .bind(texts)
    .fetch_all(connection)
    .await?;
    Ok(Applied(rows))
}
