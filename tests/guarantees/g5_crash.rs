//! G5 and G15 under SIGKILL: a process dies at each boundary of a workflow in turn, and the effects
//! are always those of one run.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use nix::sys::signal::{Signal, raise};
use sqlx::{Connection, PgConnection};

const URL: &str = "G5_CRASH_URL";
const POINT: &str = "G5_CRASH_POINT";

/// Kills the victim's process when it comes here for the time that it was told.
fn boundary() {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let point = std::env::var(POINT).ok();
    if point.is_some_and(|point| point.parse() == Ok(PASSED.fetch_add(1, SeqCst))) {
        raise(Signal::SIGKILL).unwrap();
    }
}

async fn effect(url: &str, name: &str) -> anyhow::Result<()> {
    sqlx::query("insert into effects values ($1)")
        .bind(name)
        .execute(&mut PgConnection::connect(url).await?)
        .await?;
    Ok(())
}

#[task(name = "g5.crash.child")]
async fn g5_crash_child(ctx: &TaskContext, n: i64, url: String) -> anyhow::Result<i64> {
    boundary();
    ctx.step("child", || effect(&url, "child")).await?;
    boundary();
    Ok(n * 2)
}

#[task(name = "g5.crash.workflow")]
async fn g5_crash_workflow(ctx: &TaskContext, url: String) -> anyhow::Result<i64> {
    boundary();
    let n: i64 = ctx
        .step("step", || async {
            boundary();
            effect(&url, "step").await?;
            anyhow::Ok(20)
        })
        .await?;
    boundary();
    ctx.sleep("sleep", Duration::from_millis(1)).await?;
    boundary();
    let payload = G5CrashChild {
        n,
        url: url.clone(),
    };
    let twice = ctx.invoke::<G5CrashChild>("child", payload).await?;
    boundary();
    let n: i64 = ctx
        .transaction("transaction", async |tx| {
            boundary();
            sqlx::query("insert into effects values ('transaction')")
                .execute(&mut *tx)
                .await?;
            boundary();
            anyhow::Ok(twice + 2)
        })
        .await?;
    boundary();
    Ok(n)
}

/// The process that is killed: does nothing but where the test below starts it.
#[test]
fn victim() {
    let Ok(url) = std::env::var(URL) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let conductor = Conductor::connect_to(&url).await.unwrap();
        let worker = Orchestrator::builder(conductor.clone());
        let worker = worker.allow_unserved_queues().build().unwrap();
        let worker = worker.start().await.unwrap();
        let left = "select count(*) from conductor.live_executions";
        while sqlx::query_scalar::<_, i64>(left)
            .fetch_one(conductor.pool())
            .await
            .unwrap()
            > 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        worker.stop().await.unwrap();
    });
}

#[conductor::test]
async fn a_kill_at_any_boundary_leaves_the_effects_of_one_run(
    test: TestConductor,
) -> anyhow::Result<()> {
    sqlx::query("create table effects (name text not null)")
        .execute(test.pool())
        .await?;
    let url = test.url().to_owned();
    let mut killed = 0;
    loop {
        sqlx::query("truncate effects").execute(test.pool()).await?;
        let workflow = G5CrashWorkflow { url: url.clone() };
        let run = test.invoke::<G5CrashWorkflow>(workflow).await?;
        let mut victim = Command::new(std::env::current_exe()?)
            .args(["guarantees::g5_crash::victim", "--exact"])
            .env(URL, &url)
            .env(POINT, killed.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let ended = tokio::task::spawn_blocking(move || victim.wait()).await??;
        if !ended.success() {
            // The lease need not be waited for; a session of the dead may hold a row for a moment.
            crate::support::eventually("the burial", || async {
                sqlx::raw_sql(
                    "update conductor.orchestrators set lease_until = '-infinity';
                     select conductor.recover(99);",
                )
                .execute(test.pool())
                .await
                .unwrap();
                sqlx::query_scalar("select not exists (select from conductor.orchestrators)")
                    .fetch_one(test.pool())
                    .await
                    .unwrap()
            })
            .await;
            test.advance(Duration::from_secs(1)).await?;
            test.drain().await?;
        }
        assert_eq!(run.result().await?, 42, "killed at boundary {killed}");
        let effects: Vec<String> = sqlx::query_scalar("select name from effects order by name")
            .fetch_all(test.pool())
            .await?;
        assert_eq!(
            effects,
            ["child", "step", "transaction"],
            "killed at boundary {killed}"
        );
        if ended.success() {
            break;
        }
        killed += 1;
    }
    // The handlers start again at each of their suspensions, and pass some boundaries again.
    assert!(killed >= 10, "{killed}");
    Ok(())
}
