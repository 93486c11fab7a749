use std::cmp::Ordering;

use sqlx::{PgConnection, Row as _};

use super::migrations::{FunctionSet, Migration, functions, latest_version, migrations};
use crate::error::{Error, Result};

/// What a database has of migrations and functions.
#[derive(Debug, Default)]
pub struct Applied {
    migrations: Vec<Row>,
    /// `None` if it has no functions of this product.
    functions: Option<Functions>,
}

#[derive(Debug)]
struct Row {
    id: i32,
    breaking: bool,
    /// Whether the text is the one in this binary; `None` if this binary has no such migration.
    same: Option<bool>,
}

/// How the database's functions compare to those of this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Functions {
    /// Those of an earlier version, or of another build of the same version.
    Other,
    Same,
    Newer,
}

/// How the schema compares to this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The database has no schema of this product.
    Empty,
    /// This binary would apply migrations or functions.
    Older,
    /// The schema is that of this build.
    Current,
    /// The schema is newer than this binary, and the binary can work on it.
    NewerCompatible,
    /// The schema has a migration that this binary does not know and must not work with.
    NewerBreaking(i32),
    /// This migration has another text in the database than in this binary.
    Changed(i32),
}

/// What a binary has to apply.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    pub(crate) migrations: Vec<Migration>,
    /// Its functions, if the database has others.
    pub(crate) functions: Option<&'static FunctionSet>,
    /// The database has never had functions of this product.
    pub(crate) is_first: bool,
}

impl Missing {
    pub(crate) fn is_empty(&self) -> bool {
        self.migrations.is_empty() && self.functions.is_none()
    }
}

impl Applied {
    /// Returns the number of the last migration; 0 if the database has none.
    pub fn version(&self) -> i32 {
        self.migrations.last().map_or(0, |row| row.id)
    }

    pub fn standing(&self) -> Standing {
        let latest = latest_version();
        if self.migrations.is_empty() {
            return Standing::Empty;
        }
        let mut known = self.migrations.iter().filter(|row| row.id <= latest);
        if let Some(row) = known.find(|row| row.same != Some(true)) {
            return Standing::Changed(row.id);
        }
        let newer = || self.migrations.iter().filter(|row| row.id > latest);
        if let Some(row) = newer().rfind(|row| row.breaking) {
            return Standing::NewerBreaking(row.id);
        }
        if self.lacking().next().is_some() || self.lacks_functions() {
            Standing::Older
        } else if self.functions == Some(Functions::Newer) || newer().next().is_some() {
            Standing::NewerCompatible
        } else {
            Standing::Current
        }
    }

    /// Whether the functions of this binary have to be applied. Those beside a migration that it does not know
    /// belong to a newer build, whatever their version.
    fn lacks_functions(&self) -> bool {
        let is_newer = self.version() > latest_version();
        matches!(self.functions, None | Some(Functions::Other)) && !is_newer
    }

    /// Returns what this binary would apply.
    ///
    /// # Errors
    /// The binary and the schema do not fit. `begin_anew` is the advice on how to get an empty database.
    pub(crate) fn missing(&self, begin_anew: &str) -> Result<Missing> {
        match self.standing() {
            Standing::NewerBreaking(id) => Err(too_new(id)),
            Standing::Changed(id) => Err(Error::Schema(format!(
                "migration {id} is not the one that was applied to this database: the two come from different builds.\n  Before the first release that is expected. To begin anew: {begin_anew}"
            ))),
            _ => Ok(Missing {
                migrations: self.lacking().collect(),
                functions: self.lacks_functions().then(functions),
                is_first: self.functions.is_none(),
            }),
        }
    }

    fn lacking(&self) -> impl Iterator<Item = Migration> {
        migrations()
            .iter()
            .filter(|migration| !self.migrations.iter().any(|row| row.id == migration.id))
            .copied()
    }
}

/// Returns the error for a migration that was applied, or is about to be, and that this binary cannot
/// work with.
pub fn too_new(id: i32) -> Error {
    Error::Schema(format!(
        "the database has version {id}, which breaks with programs that do not know it, and this binary knows {}; deploy a newer build of this program",
        latest_version()
    ))
}

/// Reads which migrations and functions a database has.
pub async fn applied(connection: &mut PgConnection) -> Result<Applied> {
    // By reading the catalogue: to_regclass may use the session's cache, which is not refreshed while
    // waiting for the lock, and report that there is still no schema.
    let tables = sqlx::query(
        "select count(*) filter (where c.relname = 'migrations') = 1,
                count(*) filter (where c.relname = 'function_set') = 1
           from pg_catalog.pg_class c
           join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where n.nspname = 'conductor' and c.relname in ('migrations', 'function_set')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !tables.try_get::<bool, _>(0)? {
        return Ok(Applied::default());
    }
    let ids: Vec<i32> = migrations().iter().map(|m| m.id).collect();
    let checksums: Vec<String> = migrations().iter().map(Migration::checksum).collect();
    // The table of an early schema does not have this column.
    let rows: Vec<(i32, bool, Option<bool>)> = sqlx::query_as(
        "select m.id, coalesce((to_jsonb(m)->>'breaking')::boolean, true) as breaking,
                m.checksum = known.checksum as same
           from conductor.migrations m
           left join unnest($1::integer[], $2::text[]) as known(id, checksum) on known.id = m.id
          order by m.id",
    )
    .bind(ids)
    .bind(checksums)
    .fetch_all(&mut *connection)
    .await?;
    let rows = rows.into_iter();
    Ok(Applied {
        migrations: rows
            .map(|(id, breaking, same)| Row { id, breaking, same })
            .collect(),
        functions: match tables.try_get(1)? {
            true => applied_functions(connection).await?,
            false => None,
        },
    })
}

async fn applied_functions(connection: &mut PgConnection) -> Result<Option<Functions>> {
    let found: Option<(Vec<i32>, String)> =
        sqlx::query_as("select version, checksum from conductor.function_set")
            .fetch_optional(connection)
            .await?;
    let ours = functions();
    Ok(found.map(
        |(version, checksum)| match version.as_slice().cmp(&ours.version) {
            _ if checksum == ours.checksum => Functions::Same,
            Ordering::Greater => Functions::Newer,
            Ordering::Equal | Ordering::Less => Functions::Other,
        },
    ))
}
