//! G13: a cancel reaches a running durable handler within a second, and what ignores it is fenced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use uuid::Uuid;

use crate::support::{Gate, eventually, info, number, run_sql, soon, start_with};

const SECOND: Duration = Duration::from_secs(1);

/// How a test says its cancel.
#[derive(Debug, Clone, Copy)]
enum Way {
    Client,
    Sql,
    Context,
}

#[task(name = "g13.canceller", priority = 1)]
async fn g13_canceller(ctx: &TaskContext, id: Uuid) -> anyhow::Result<bool> {
    Ok(ctx.cancel(id).reason("enough").await?)
}

async fn say(way: Way, test: &TestConductor, id: Uuid) -> anyhow::Result<bool> {
    Ok(match way {
        Way::Client => test.cancel(id).reason("enough").await?,
        Way::Sql => {
            sqlx::query_scalar("select conductor.cancel($1, 'enough')")
                .bind(id)
                .fetch_one(test.pool())
                .await?
        }
        Way::Context => {
            let run = test.invoke::<G13Canceller>(G13Canceller { id }).await?;
            soon("the canceller", run.result()).await?
        }
    })
}

/// Cancels, and gives the time from the call to the recorded end.
async fn cancelled_after<T: Task>(
    way: Way,
    test: &TestConductor,
    run: &Execution<T>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    assert!(say(way, test, run.id()).await?, "{way:?}");
    let ended = soon("its end", run.result()).await;
    let took = began.elapsed();
    assert!(
        matches!(&ended, Err(Error::Cancelled { reason: Some(r), .. }) if r == "enough"),
        "{way:?}: {:?}",
        ended.err()
    );
    Ok(took)
}

#[task(name = "g13.long-step")]
async fn g13_long_step(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.step("long", || async {
        tokio::select! {
            () = ctx.state::<Arc<Gate>>().pass() => Ok(()),
            () = ctx.until_cancelled() => anyhow::bail!("cut short"),
        }
    })
    .await
}

#[conductor::test]
async fn it_reaches_a_long_step_whoever_says_it(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 4, gate.clone()).await?;
    for way in [Way::Client, Way::Sql, Way::Context] {
        let run = test.invoke::<G13LongStep>(()).await?;
        gate.entered(1).await;
        let took = cancelled_after(way, &test, &run).await?;
        assert!(took < SECOND, "{way:?}: {took:?}");
        gate.dropped().await;
    }
    worker.stop().await?;
    Ok(())
}

static STEPS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g13.many-steps")]
async fn g13_many_steps(ctx: &TaskContext) -> anyhow::Result<()> {
    for n in 0.. {
        ctx.step(format!("step {n}"), || async {
            STEPS.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            anyhow::Ok(())
        })
        .await?;
    }
    Ok(())
}

#[conductor::test]
async fn it_takes_effect_between_two_steps(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 4, ()).await?;
    let run = test.invoke::<G13ManySteps>(()).await?;
    let some = || std::future::ready(STEPS.load(SeqCst) > 10);
    eventually("some steps", some).await;
    let took = cancelled_after(Way::Client, &test, &run).await?;
    assert!(took < SECOND, "{took:?}");
    let recorded = number(&test, "select count(*) from conductor.steps").await;
    assert_eq!(
        recorded,
        STEPS.load(SeqCst) as i64,
        "a step that runs may end"
    );
    worker.stop().await?;
    Ok(())
}

#[task(name = "g13.looks")]
async fn g13_looks(ctx: &TaskContext, checkpoint: bool) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    loop {
        if checkpoint {
            ctx.checkpoint().await?;
        } else if ctx.cancelled() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[conductor::test]
async fn a_loop_sees_it(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 4, gate.clone()).await?;
    for checkpoint in [false, true] {
        let run = test.invoke::<G13Looks>(G13Looks { checkpoint }).await?;
        gate.open(1);
        gate.entered(1).await;
        let took = cancelled_after(Way::Client, &test, &run).await?;
        assert!(took < SECOND, "{took:?}");
    }
    worker.stop().await?;
    Ok(())
}

#[task(name = "g13.parent")]
async fn g13_parent(ctx: &TaskContext) -> anyhow::Result<()> {
    let (all, one) = tokio::join!(
        ctx.invoke_all::<G13LongStep>("all", [(), (), ()]),
        ctx.invoke::<G13Middle>("one", ()),
    );
    all?;
    one?;
    Ok(())
}

#[task(name = "g13.middle")]
async fn g13_middle(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(ctx.invoke::<G13LongStep>("long", ()).await?)
}

#[conductor::test]
async fn it_reaches_the_running_children_of_one_that_waits(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 9, gate.clone()).await?;
    let run = test.invoke::<G13Parent>(()).await?;
    gate.entered(4).await;
    let suspended = "select count(*) from conductor.live_executions where state = 'suspended'";
    eventually("two parents that wait", || async {
        number(&test, suspended).await == 2
    })
    .await;

    let began = Instant::now();
    assert!(test.cancel(run.id()).reason("enough").await?);
    for _ in 0..4 {
        gate.dropped().await;
    }
    let all =
        "select count(*) from conductor.executions where state = 'cancelled' and error = 'enough'";
    eventually("the end of all six", || async {
        number(&test, all).await == 6
    })
    .await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    worker.stop().await?;
    Ok(())
}

static IGNORED: AtomicUsize = AtomicUsize::new(0);

/// Goes on whatever it is told.
#[task(name = "g13.ignores")]
async fn g13_ignores(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.step("before", || async { anyhow::Ok(()) }).await?;
    ctx.state::<Arc<Gate>>().pass().await;
    ctx.until_cancelled().await;
    let booked = ctx
        .transaction("book", async |tx| {
            sqlx::query("insert into g13_books values (1)")
                .execute(tx)
                .await
                .map(drop)
        })
        .await;
    assert!(booked.is_err_and(|error| error.to_string().contains("was cancelled")));
    let step = ctx.step("after", || async {
        IGNORED.fetch_add(1, SeqCst);
        anyhow::Ok(())
    });
    assert!(step.await.is_err());
    assert!(ctx.sleep("sleep", Duration::ZERO).await.is_err());
    assert!(ctx.invoke::<G13Middle>("child", ()).await.is_err());
    Ok(1)
}

#[conductor::test]
async fn one_that_ignores_it_is_fenced_and_ends_cancelled(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(&test, "create table g13_books (n integer)").await?;
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<G13Ignores>(()).await?;
    gate.entered(1).await;
    assert!(test.cancel(run.id()).reason("enough").await?);
    assert_eq!(run.status().await?, Status::Running);
    gate.open(1);
    let ended = soon("its end", run.result()).await;
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    let info = info(&test, run.id()).await?;
    assert_eq!(info.error.as_deref(), Some("enough"));
    assert!(info.output.is_none());
    assert_eq!(number(&test, "select count(*) from g13_books").await, 0);
    assert_eq!(
        number(&test, "select count(*) from conductor.executions").await,
        1
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.steps").await,
        1
    );
    assert_eq!(IGNORED.load(SeqCst), 0);
    worker.stop().await?;
    Ok(())
}

/// Its transaction comes after a cancel of which its process has not heard.
#[task(name = "g13.deaf")]
async fn g13_deaf(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    assert!(!ctx.cancelled());
    let booked = ctx
        .transaction("book", async |tx| {
            sqlx::query("insert into g13_books values (1)")
                .execute(tx)
                .await
                .map(drop)
        })
        .await;
    assert!(booked.is_err_and(|error| error.to_string().contains("was cancelled")));
    Ok(())
}

#[conductor::test]
async fn a_transaction_does_not_commit_though_the_cancel_was_not_heard(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(&test, "create table g13_books (n integer)").await?;
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<G13Deaf>(()).await?;
    gate.entered(1).await;
    // As `conductor.cancel` does, without the notification.
    run_sql(
        &test,
        "update conductor.live_executions set cancelled = true",
    )
    .await?;
    gate.open(1);
    let ended = soon("its end", run.result()).await;
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    assert_eq!(number(&test, "select count(*) from g13_books").await, 0);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_context_is_told_what_was_not_cancelled(test: TestConductor) -> anyhow::Result<()> {
    let unknown = Uuid::now_v7();
    let ended = test
        .invoke::<G13Canceller>(G13Canceller { id: unknown })
        .await?;
    test.drain().await?;
    assert!(!ended.result().await?);
    for way in [Way::Client, Way::Sql] {
        assert!(!say(way, &test, unknown).await?, "{way:?}");
        assert!(!say(way, &test, ended.id()).await?, "{way:?}");
    }
    let late = test
        .invoke::<G13Canceller>(G13Canceller { id: ended.id() })
        .await?;
    test.drain().await?;
    assert!(!late.result().await?);
    assert_eq!(ended.status().await?, Status::Completed);
    Ok(())
}
