//! What several files of the suite want.

#[cfg(target_os = "linux")]
mod clock;
mod counted;
mod gate;
mod process;
// The storm's binary and the suite use different parts of these.
#[allow(dead_code)]
mod proxy;
mod role;
#[allow(dead_code)]
mod server;
mod sql;

use std::future::Future;
use std::time::{Duration, Instant};

use conductor::testing::TestConductor;
use conductor::{ExecutionInfo, Handle, Worker};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

#[cfg(target_os = "linux")]
pub use clock::wrong_clock;
pub use counted::Counted;
pub use gate::Gate;
pub use process::Process;
pub use proxy::Proxy;
pub use role::Role;
pub use server::{Server, Shutdown, as_server_user, own};
pub use sql::{emptied, number, reads, run_sql, sqlstate, watched};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition holds, for what happens by itself, at no known time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The future's value, or a failed test where it hangs.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("never came: {what}"),
    }
}

/// A session beside the client's pool, which the test may spare when it kills the others.
pub async fn session(test: &TestConductor) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect(test.url()).await?)
}

/// Ends all sessions of this database but one.
pub async fn kill_sessions(spared: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and pid <> pg_backend_pid()",
    )
    .execute(spared)
    .await?;
    Ok(())
}

/// Whether the database takes new sessions; said from another one, as it cannot refuse itself.
pub async fn allow_sessions(test: &TestConductor, allowed: bool) -> anyhow::Result<()> {
    let name = test
        .url()
        .split(['/', '?'])
        .find(|part| part.starts_with("conductor_test_"))
        .unwrap();
    let mut admin = PgConnection::connect(&test.url().replace(name, "postgres")).await?;
    let statement = format!("alter database {name} with allow_connections {allowed}");
    admin.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

/// A worker of the queue "default" alone; it must be started with `allow_unserved_queues`.
pub fn narrow(concurrency: usize) -> Worker {
    Worker::queue("default").concurrency(concurrency)
}

/// A number of rows or calls: the large one in `just nightly`, which sets `CONDUCTOR_NIGHTLY`.
pub fn size(usual: i64, nightly: i64) -> i64 {
    match std::env::var_os("CONDUCTOR_NIGHTLY") {
        Some(_) => nightly,
        None => usual,
    }
}

/// Starts an orchestrator whose handlers see this value.
pub async fn start_with<T: Send + Sync + 'static>(
    test: &TestConductor,
    concurrency: usize,
    state: T,
) -> anyhow::Result<Handle> {
    let orchestrator = test
        .orchestrator()
        .worker(narrow(concurrency))
        .allow_unserved_queues()
        .state(state)
        .build()?;
    Ok(orchestrator.start().await?)
}

/// What the database knows of an execution that must exist.
pub async fn info(test: &TestConductor, id: Uuid) -> anyhow::Result<ExecutionInfo> {
    Ok(test.find(id).await?.unwrap())
}

/// That it rests as one that cannot be read, charged with nothing; why, in words.
pub async fn left(test: &TestConductor, id: Uuid) -> anyhow::Result<String> {
    let info = info(test, id).await?;
    assert_eq!(
        (info.state, info.failures, info.crashes, info.error),
        (conductor::Status::Pending, 0, 0, None)
    );
    let why = test.why(id).await?;
    let json = serde_json::to_value(&why)?;
    assert_eq!(json["reason"], "unreadable", "{why}");
    Ok(why.text)
}

/// How many rows `conductor.executions` has where this holds.
pub async fn count(test: &TestConductor, condition: &'static str) -> anyhow::Result<i64> {
    let query = format!("select count(*) from conductor.executions where {condition}");
    Ok(sqlx::query_scalar(AssertSqlSafe(query))
        .fetch_one(test.pool())
        .await?)
}

/// How many orchestrators the database knows.
pub async fn orchestrators(test: &TestConductor) -> anyhow::Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from conductor.orchestrators")
            .fetch_one(test.pool())
            .await?,
    )
}

/// Takes a running execution from its worker, as recovery does.
pub async fn give_back(test: &TestConductor, id: Uuid) -> anyhow::Result<()> {
    let given: i32 = sqlx::query_scalar("select conductor.give_back(array[$1], 5)")
        .bind(id)
        .fetch_one(test.pool())
        .await?;
    assert_eq!(given, 1, "it did not run");
    Ok(())
}

/// Declares a task that no binary has.
pub async fn declare(test: &TestConductor, name: &str) -> anyhow::Result<()> {
    sqlx::query(
        r#"select conductor.declare_tasks(jsonb_build_array(jsonb_build_object(
               'name', $1::text, 'queue', 'default', 'package', 'elsewhere', 'place', 'elsewhere.rs:1',
               'docs', '', 'priority', 0, 'max_attempts', 3, 'backoff_initial_ms', 15000,
               'backoff_max_ms', 7200000, 'jitter', 0, 'timeout_ms', null,
               'keep_completed_ms', 1000, 'keep_failed_ms', 1000,
               'payload_schema', true, 'output_schema', true)), true)"#,
    )
    .bind(name)
    .execute(test.pool())
    .await?;
    Ok(())
}

/// Moves the clock to half past the hour: far from the ticks of hourly rules, and just behind one of rules of minutes.
pub async fn to_half_past(test: &TestConductor) -> anyhow::Result<()> {
    let into = test
        .now()
        .await?
        .timestamp()
        .rem_euclid(3600)
        .unsigned_abs();
    test.advance(Duration::from_secs((3600 + 1800 - into) % 3600))
        .await?;
    Ok(())
}
