//! G3: a finished handler's outcome is written or retried until it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Error, Status};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::support::{
    Gate, allow_sessions, count, eventually, kill_sessions, session, soon, start_with,
};

type Runs = Arc<Mutex<HashMap<Uuid, u32>>>;

#[task(name = "g3-counted", retry(max_attempts = 1))]
async fn g3_counted(ctx: &TaskContext, n: u64) -> anyhow::Result<u64> {
    tokio::time::sleep(Duration::from_millis(n % 20)).await;
    let mut runs = ctx.state::<Runs>().lock().unwrap();
    *runs.entry(ctx.execution_id()).or_default() += 1;
    Ok(n)
}

#[task(name = "g3-gated", retry(max_attempts = 1))]
async fn g3_gated(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(ctx.attempt())
}

async fn finished(session: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from conductor.finished_executions")
        .fetch_one(session)
        .await
        .unwrap()
}

/// Claims whose answer was lost are given back before any handler ran, and outcomes are written
/// again under their claim number; so each handler runs once, although sessions break all the time.
#[conductor::test]
async fn sessions_that_break_all_the_time_lose_and_repeat_nothing(
    test: TestConductor,
) -> anyhow::Result<()> {
    const JOBS: u64 = 2000;
    let mut session = session(&test).await?;
    let ids = test
        .invoke_batch::<G3Counted>((0..JOBS).map(|n| G3Counted { n }))
        .await?;
    let runs = Runs::default();
    let worker = start_with(&test, 50, runs.clone()).await?;
    let mut killed = 0;
    soon("all outcomes", async {
        while finished(&mut session).await < JOBS as i64 {
            if killed < 40 {
                kill_sessions(&mut session).await.unwrap();
                killed += 1;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(killed > 3, "too quick to be broken: {killed}");
    eventually("a session", || async {
        sqlx::query("select 1").execute(test.pool()).await.is_ok()
    })
    .await;
    worker.stop().await?;
    assert_eq!(count(&test, "state = 'completed'").await?, JOBS as i64);
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    assert_eq!(count(&test, "output::text <> payload->>'n'").await?, 0);
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len(), ids.len());
    let repeated: Vec<_> = runs.iter().filter(|(_, runs)| **runs != 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
    Ok(())
}

#[conductor::test]
async fn a_database_that_refuses_sessions_delays_outcomes_only(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut session = session(&test).await?;
    let gate = Gate::new();
    let worker = start_with(&test, 10, gate.clone()).await?;
    let ids = test.invoke_batch::<G3Gated>((0..10).map(|_| ())).await?;
    gate.entered(10).await;
    allow_sessions(&test, false).await?;
    kill_sessions(&mut session).await?;
    gate.open(10);
    eventually("the outage is felt", || async {
        sqlx::query("select 1").execute(test.pool()).await.is_err()
    })
    .await;
    assert_eq!(finished(&mut session).await, 0);
    allow_sessions(&test, true).await?;
    soon("all outcomes", async {
        while finished(&mut session).await < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    worker.stop().await?;
    // The sessions of the other client are dead until they are used.
    let client = Conductor::connect_to(test.url()).await?;
    for id in ids {
        let info = client.find(id).await?.unwrap();
        assert_eq!((info.state, info.claim), (Status::Completed, 1));
    }
    assert_eq!(gate.unseen(), 0);
    Ok(())
}

/// Fills the client's pool with sessions and kills them: whoever takes one meets a dead one.
async fn kill_a_full_pool(test: &TestConductor, session: &mut PgConnection) -> anyhow::Result<()> {
    let size = test.pool().options().get_max_connections();
    let mut held = Vec::new();
    for _ in 0..size {
        match test.pool().try_acquire() {
            Some(connection) => held.push(connection),
            None => held.push(test.pool().acquire().await?),
        }
    }
    drop(held);
    eventually("a pool of idle sessions", || async {
        // The count may be below zero for a moment, which is a very large number.
        (size as usize - 2..=size as usize).contains(&test.pool().num_idle())
    })
    .await;
    kill_sessions(session).await
}

#[conductor::test]
async fn an_invoke_survives_a_pool_of_dead_sessions(test: TestConductor) -> anyhow::Result<()> {
    let mut session = session(&test).await?;
    test.invoke::<G3Counted>(G3Counted { n: 1 }).await?;
    kill_a_full_pool(&test, &mut session).await?;
    let run = test.invoke::<G3Counted>(G3Counted { n: 2 }).await?;
    let runs = Runs::default();
    let worker = start_with(&test, 1, runs).await?;
    assert_eq!(soon("the result", run.result()).await?, 2);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_pool_of_dead_sessions_costs_no_lease(test: TestConductor) -> anyhow::Result<()> {
    let mut session = session(&test).await?;
    let gate = Gate::new();
    let worker = test
        .orchestrator()
        .heartbeat(Duration::from_secs(1), Duration::from_secs(4))
        .state(gate.clone())
        .build()?
        .start()
        .await?;
    let run = test.invoke::<G3Gated>(()).await?;
    gate.entered(1).await;
    let lease = "select max(lease_until) from conductor.orchestrators";
    let before: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar(lease).fetch_one(&mut session).await?;
    kill_a_full_pool(&test, &mut session).await?;
    soon("a renewed lease", async {
        loop {
            let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(lease)
                .fetch_one(&mut session)
                .await
                .unwrap();
            if now > before + Duration::from_secs(4) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gate.open(1);
    assert_eq!(soon("the result", run.result()).await?, 1);
    assert_eq!(gate.unseen(), 0);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn whoever_waits_for_a_result_survives_broken_sessions(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut session = session(&test).await?;
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<G3Gated>(()).await?;
    gate.entered(1).await;
    let waiting = tokio::spawn({
        let run = run.clone();
        async move { run.result().await }
    });
    eventually("somebody watches", || async {
        sqlx::query_scalar("select bool_or(watched) from conductor.live_executions")
            .fetch_one(test.pool())
            .await
            .unwrap()
    })
    .await;
    kill_a_full_pool(&test, &mut session).await?;
    gate.open(1);
    let result: Result<u32, Error> = soon("the result", waiting).await?;
    assert_eq!(result?, 1);
    worker.stop().await?;
    Ok(())
}
