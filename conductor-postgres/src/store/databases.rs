//! Databases of tests, made from a template. The connection is that of a role that may create databases.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

/// Returns the server's version, such as 150004.
pub async fn server_version(admin: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select current_setting('server_version_num')::integer")
        .fetch_one(admin)
        .await
}

/// Locks a number until the session ends or [unlocks](unlock) it, waiting for other sessions.
pub async fn lock(admin: &mut PgConnection, number: i64) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_lock($1)")
        .bind(number)
        .execute(admin)
        .await
        .map(drop)
}

/// Releases a lock.
pub async fn unlock(admin: &mut PgConnection, number: i64) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(number)
        .execute(admin)
        .await
        .map(drop)
}

/// Returns whether a database exists and is marked as a template.
pub async fn is_template(admin: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from pg_database where datname = $1 and datistemplate)",
    )
    .bind(name)
    .fetch_one(admin)
    .await
}

/// Creates an empty database. The name must be a valid one without quotes.
pub async fn create(admin: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    run(admin, format!("create database {name}")).await
}

/// Marks a database as a template. The name must be a valid one without quotes.
pub async fn mark_as_template(admin: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    run(
        admin,
        format!("alter database {name} with is_template true"),
    )
    .await
}

/// Creates a database as a copy of a template; by copying files if `as_files`, which Postgres 15 or later can. The
/// names must be valid ones without quotes.
///
/// Raises `OBJECT_IN_USE` while another session is connected to the template.
pub async fn copy(
    admin: &mut PgConnection,
    name: &str,
    template: &str,
    as_files: bool,
) -> Result<(), sqlx::Error> {
    let strategy = if as_files { " strategy file_copy" } else { "" };
    run(
        admin,
        format!("create database {name} template {template}{strategy}"),
    )
    .await
}

/// Drops a database, if it exists, and ends its sessions. The name must be a valid one without quotes.
pub async fn drop_if_exists(admin: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    run(
        admin,
        format!("drop database if exists {name} with (force)"),
    )
    .await
}

async fn run(admin: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    admin.execute(AssertSqlSafe(statement)).await.map(|_| ())
}
