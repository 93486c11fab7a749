//! Tables of the application, in the database's catalogue.

use sqlx::postgres::types::Oid;

use crate::{Alone, Database};

/// A table, view or similar.
#[derive(Debug)]
pub struct Relation {
    /// Its id.
    pub oid: Oid,
    /// Its name with its schema, quoted if necessary.
    pub name: String,
    /// Its kind, as in `pg_class.relkind`.
    pub kind: String,
    /// Whether it is temporary.
    pub is_temporary: bool,
    /// Whether it belongs to the system or to Conductor.
    pub is_system: bool,
    /// Its columns, in order.
    pub columns: Vec<String>,
}

/// A session that holds a lock on a table.
#[derive(Debug)]
pub struct Holder {
    /// Its process id.
    pub pid: i32,
    /// Its state; may be empty.
    pub state: String,
    /// How long its transaction has lasted.
    pub seconds: i64,
}

/// Returns the first table that has one of these names in one of these schemas, both in order of preference. Without
/// schemas, looks in `public`.
///
/// It calls no function of the library, because roles that may only read run checks.
pub async fn find(
    database: &Database,
    schemas: Option<Vec<String>>,
    names: Vec<String>,
) -> Result<Option<Relation>, sqlx::Error> {
    let row: Option<(Oid, String, String, bool, bool, Vec<String>)> = sqlx::query_as(
            "select c.oid, format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relpersistence = 't',
                    n.nspname = 'conductor' or n.nspname = 'information_schema' or n.nspname ~ '^pg_',
                    array(select a.attname::text from pg_attribute a
                           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum)
               from unnest(coalesce($1, '{public}')) with ordinality as s(name, n)
               join pg_namespace n on n.nspname = s.name
              cross join unnest($2) with ordinality as t(name, n)
               join pg_class c on c.relnamespace = n.oid and c.relname = t.name
              where c.relkind in ('r', 'p', 'v', 'm', 'f')
              order by s.n, t.n
              limit 1",
    )
    .bind(schemas)
    .bind(names)
    .optional(database)
    .await?;
    let found = row.map(
        |(oid, name, kind, is_temporary, is_system, columns)| Relation {
            oid,
            name,
            kind,
            is_temporary,
            is_system,
            columns,
        },
    );
    Ok(found)
}

/// Returns the names of at most 2000 tables of the application: without and with their schemas. Those of `public` come
/// first.
pub async fn names(database: &Database) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "select c.relname::text, format('%I.%I', n.nspname, c.relname)
               from pg_class c
               join pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('r', 'p') and c.relpersistence <> 't'
                and n.nspname not in ('conductor', 'information_schema') and n.nspname !~ '^pg_'
              order by n.nspname = 'public' desc, n.nspname, c.relname
              limit 2000",
    )
    .all(database)
    .await
}

/// Returns at most three sessions that hold a lock on a table which its writers would wait for, the longest transaction
/// first.
pub async fn lock_holders(database: &Database, relation: Oid) -> Result<Vec<Holder>, sqlx::Error> {
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
    let holders = holders.into_iter().map(|(pid, state, seconds)| Holder {
        pid,
        state,
        seconds,
    });
    Ok(holders.collect())
}
