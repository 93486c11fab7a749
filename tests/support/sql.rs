use conductor::Conductor;
use conductor::testing::TestConductor;
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use super::{eventually, session};

/// Runs statements as the owner of the test's database.
pub async fn run_sql(conductor: &Conductor, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(conductor.pool())
        .await
        .map(drop)
}

/// The one number that a query gives.
pub async fn number(conductor: &Conductor, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(conductor.pool())
        .await
        .unwrap()
}

/// Waits until somebody waits for this execution's end.
pub async fn watched(conductor: &Conductor, id: Uuid) {
    eventually("a waiter", || async {
        sqlx::query_scalar("select watched from conductor.live_executions where id = $1")
            .bind(id)
            .fetch_one(conductor.pool())
            .await
            .unwrap()
    })
    .await;
}

/// A database without a schema, on the test's server.
pub async fn emptied(test: &TestConductor) {
    run_sql(test, "drop schema if exists conductor cascade")
        .await
        .unwrap();
}

/// The SQLSTATE of a refused statement.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// How many rows of a table a statement reads.
pub async fn reads(test: &TestConductor, table: &str, statement: &str) -> anyhow::Result<i64> {
    let mut session = session(test).await?;
    let mut tx = session.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&mut *tx)
        .await?;
    let read = format!(
        "select (coalesce(idx_tup_fetch, 0) + seq_tup_read)::bigint from pg_stat_xact_user_tables
          where schemaname = 'conductor' and relname = '{table}'"
    );
    let read = sqlx::query_scalar(AssertSqlSafe(read))
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(read)
}
