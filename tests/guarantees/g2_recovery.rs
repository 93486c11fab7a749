//! G2: the work of a dead process is done by others.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::Connection;

use crate::support::{
    Gate, Process, Proxy, eventually, give_back, info, orchestrators, session, soon,
};

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

/// What it had begun in the database would be locked for as long as it is frozen.
#[conductor::test]
async fn a_process_that_is_frozen_in_the_middle_of_a_heartbeat_is_recovered(
    test: TestConductor,
) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let frozen = Process::at(&proxy.url())?;
    let run = test.invoke::<G2FirstHangs>(()).await?;
    eventually("the handler", || is_running(&run)).await;
    proxy.hold_behind("conductor.heartbeat");
    eventually("a heartbeat", async || proxy.holds()).await;
    frozen.freeze()?;
    let other = Process::start(&test)?;
    assert_eq!(soon("the result", run.result()).await?, 2);
    drop(other);
    Ok(())
}

/// Such as a cancel that is not committed, or what a host that is cut off has left.
#[conductor::test]
async fn one_that_somebody_has_locked_keeps_no_other_waiting(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut process = Process::start(&test)?;
    let locked = test.invoke::<G2FirstHangs>(()).await?;
    let other = test.invoke::<G2FirstHangs>(()).await?;
    eventually("both handlers", async || {
        is_running(&locked).await && is_running(&other).await
    })
    .await;
    let mut session = session(&test).await?;
    let mut tx = session.begin().await?;
    sqlx::query("select id from conductor.live_executions where id = $1 for update")
        .bind(locked.id())
        .execute(&mut *tx)
        .await?;
    process.kill()?;

    let survivor = test
        .orchestrator()
        .heartbeat(Duration::from_millis(200), Duration::from_secs(30))
        .build()?
        .start()
        .await?;
    assert_eq!(soon("the other's result", other.result()).await?, 2);
    assert!(is_running(&locked).await);
    tx.rollback().await?;
    assert_eq!(soon("its result", locked.result()).await?, 2);
    assert_eq!(info(&test, locked.id()).await?.crashes, 1);
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

#[task(name = "g2-beating")]
async fn g2_beating(ctx: &TaskContext) -> anyhow::Result<u32> {
    let pool = ctx.state::<Conductor>().pool();
    loop {
        let stop: bool = sqlx::query_scalar(
            "with beat as (insert into beats (attempt, process) values ($1, $2))
             select exists (select from stop)",
        )
        .bind(i32::try_from(ctx.attempt())?)
        .bind(i32::try_from(std::process::id())?)
        .fetch_one(pool)
        .await?;
        if stop {
            return Ok(ctx.attempt());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As when a machine is suspended and goes on.
#[conductor::test]
async fn a_process_that_slept_past_its_lease_stops_and_starts_anew(
    test: TestConductor,
) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "create table beats (n bigint generated always as identity, attempt integer, process integer);
         create table stop ();",
    )
    .execute(test.pool())
    .await?;
    let beats = async |attempt: i32| -> anyhow::Result<i64> {
        let beats = "select count(*) from beats where attempt = $1";
        Ok(sqlx::query_scalar(beats)
            .bind(attempt)
            .fetch_one(test.pool())
            .await?)
    };
    let identity = async |process: &Process| -> Option<i64> {
        sqlx::query_scalar("select id from conductor.orchestrators where pid = $1")
            .bind(i32::try_from(process.id()).unwrap())
            .fetch_optional(test.pool())
            .await
            .unwrap()
    };
    let sleeper = Process::start(&test)?;
    let run = test.invoke::<G2Beating>(()).await?;
    eventually("a beat", async || beats(1).await.unwrap() > 0).await;
    let old = identity(&sleeper).await.unwrap();
    sleeper.freeze()?;
    let began = Instant::now();
    let other = Process::start(&test)?;
    eventually("another attempt", async || beats(2).await.unwrap() > 0).await;
    let slack = Duration::from_secs(8);
    assert!(
        began.elapsed() < Process::LEASE + slack,
        "{:?}",
        began.elapsed()
    );
    assert!(identity(&other).await.unwrap() > old);

    sleeper.go_on()?;
    eventually("a new identity", async || {
        identity(&sleeper).await.is_some_and(|id| id > old)
    })
    .await;
    // Its handler is dropped when the loss is known: from then on only the other one beats.
    let (before, others) = (beats(1).await?, beats(2).await?);
    eventually("more beats", async || beats(2).await.unwrap() > others + 50).await;
    let late = beats(1).await? - before;
    assert!(late <= 1, "{late} beats of a handler whose claim is lost");
    sqlx::query("insert into stop default values")
        .execute(test.pool())
        .await?;
    assert_eq!(soon("the result", run.result()).await?, 2);
    let info = info(&test, run.id()).await?;
    assert_eq!((info.crashes, info.failures), (1, 0));
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
