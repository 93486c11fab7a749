//! G2: the work of a dead process is done by others.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::Connection;

use crate::support::{Gate, Process, eventually, give_back, info, orchestrators, session, soon};

#[task(name = "g2-first-hangs")]
async fn g2_first_hangs(ctx: &TaskContext) -> anyhow::Result<u32> {
    if ctx.attempt() == 1 {
        std::future::pending::<()>().await;
    }
    Ok(ctx.attempt())
}

#[task(name = "g2-poison")]
async fn g2_poison(_ctx: &TaskContext) -> anyhow::Result<()> {
    std::process::abort()
}

async fn is_running<T: Task>(run: &Execution<T>) -> bool {
    run.status().await.unwrap() == Status::Running
}

#[conductor::test]
async fn what_a_killed_process_ran_is_run_again(test: TestConductor) -> anyhow::Result<()> {
    let mut process = Process::start(&test)?;
    let run = test.invoke::<G2FirstHangs>(()).await?;
    eventually("the handler", || is_running(&run)).await;
    process.kill()?;

    let every = Duration::from_millis(200);
    let survivor = test
        .orchestrator()
        .heartbeat(every, Duration::from_secs(30))
        .build()?
        .start()
        .await?;
    let began = Instant::now();
    assert_eq!(soon("the result", run.result()).await?, 2);
    let slack = Duration::from_secs(5);
    assert!(began.elapsed() < Process::LEASE + 2 * every + slack);
    let info = info(&test, run.id()).await?;
    assert_eq!((info.crashes, info.failures), (1, 0));
    let failures = test.failures(run.id()).await?;
    assert_eq!(failures.len(), 1);
    assert!(failures[0].error.contains("process died"), "{failures:?}");
    survivor.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_task_that_kills_each_process_is_given_up(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G2Poison>(()).await?;
    for crashes in 1..=5 {
        let status = Process::start(&test)?.ended().await?;
        assert!(!status.success());
        // The lease need not be waited for; a session of the dead may hold the row for a moment.
        eventually("the burial", || async {
            sqlx::query("update conductor.orchestrators set lease_until = '-infinity'")
                .execute(test.pool())
                .await
                .unwrap();
            sqlx::query("select conductor.recover(5)")
                .execute(test.pool())
                .await
                .unwrap();
            orchestrators(&test).await.unwrap() == 0
        })
        .await;
        assert_eq!(info(&test, run.id()).await?.crashes, crashes);
    }
    let failed = run.result().await.unwrap_err().to_string();
    assert!(failed.contains("given up after 5 crashes"), "{failed}");
    assert_eq!(test.failures(run.id()).await?.len(), 5);
    Ok(())
}

/// What happened to the handlers at the gate, and when.
struct Watch {
    gate: Arc<Gate>,
    dropped_at: Arc<Mutex<Option<Instant>>>,
}

#[task(name = "g2-watched")]
async fn g2_watched(ctx: &TaskContext) -> anyhow::Result<u32> {
    struct Guard(Arc<Mutex<Option<Instant>>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.lock().unwrap().get_or_insert_with(Instant::now);
        }
    }
    let watch = ctx.state::<Watch>();
    let _guard = Guard(watch.dropped_at.clone());
    watch.gate.pass().await;
    Ok(ctx.attempt())
}

#[conductor::test]
async fn a_lease_that_cannot_be_renewed_ends_the_handlers_before_it_ends(
    test: TestConductor,
) -> anyhow::Result<()> {
    let watch = Watch {
        gate: Gate::new(),
        dropped_at: Arc::default(),
    };
    let (gate, dropped_at) = (watch.gate.clone(), watch.dropped_at.clone());
    let worker = test
        .orchestrator()
        .heartbeat(Duration::from_millis(300), Duration::from_secs(4))
        .state(watch)
        .build()?
        .start()
        .await?;
    let run = test.invoke::<G2Watched>(()).await?;
    gate.entered(1).await;

    let mut session = session(&test).await?;
    let mut tx = session.begin().await?;
    sqlx::query("lock table conductor.orchestrators in access exclusive mode")
        .execute(&mut *tx)
        .await?;
    let left: f64 = sqlx::query_scalar(
        "select extract(epoch from max(lease_until) - clock_timestamp())::float8
           from conductor.orchestrators",
    )
    .fetch_one(&mut *tx)
    .await?;
    let over = Instant::now() + Duration::from_secs_f64(left);
    gate.dropped().await;
    eventually("the handler's end", || async {
        dropped_at.lock().unwrap().is_some()
    })
    .await;
    let dropped = dropped_at.lock().unwrap().unwrap();
    assert!(dropped < over, "{:?} too late", dropped - over);

    // Another process buries it before it can renew.
    sqlx::query("update conductor.orchestrators set lease_until = '-infinity'")
        .execute(&mut *tx)
        .await?;
    sqlx::query("select conductor.recover(5)")
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    gate.entered(1).await;
    gate.open(1);
    soon("the result", run.result()).await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_cancelled_one_whose_process_died_ends_cancelled(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut process = Process::start(&test)?;
    let run = test.invoke::<G2FirstHangs>(()).await?;
    eventually("the handler", || is_running(&run)).await;
    process.kill()?;
    assert!(test.cancel(run.id()).reason("enough").await?);
    give_back(&test, run.id()).await?;
    let info = info(&test, run.id()).await?;
    assert_eq!(info.state, Status::Cancelled);
    assert_eq!(info.error.as_deref(), Some("enough"));
    Ok(())
}
