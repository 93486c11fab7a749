//! Durable calls inside the body of another one: what can work does, the rest is refused at once.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use tokio::sync::Notify;

use crate::support::{info, number, run_sql, soon};

#[task(name = "nested.child")]
async fn nested_child(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

static OUTER: AtomicUsize = AtomicUsize::new(0);
static INNER: AtomicUsize = AtomicUsize::new(0);

#[task(name = "nested.step", retry(max_attempts = 2, backoff = "1s..1s"))]
async fn nested_step(ctx: &TaskContext) -> anyhow::Result<i32> {
    let n: i32 = ctx
        .step("outer", || async {
            OUTER.fetch_add(1, SeqCst);
            let n = ctx
                .step("inner", || async {
                    INNER.fetch_add(1, SeqCst);
                    anyhow::Ok(20)
                })
                .await?;
            ctx.checkpoint().await?;
            anyhow::ensure!(ctx.attempt() > 1, "between the two records");
            anyhow::Ok(n + 1)
        })
        .await?;
    ctx.sleep("replay", Duration::from_secs(1)).await?;
    Ok(n)
}

#[conductor::test]
async fn a_step_inside_a_step_is_recorded_by_itself(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<NestedStep>(()).await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(Duration::from_secs(2)).await?;
    }
    assert_eq!(run.result().await?, 21);
    assert_eq!((OUTER.load(SeqCst), INNER.load(SeqCst)), (2, 1));
    Ok(())
}

#[task(name = "nested.in-transaction", retry(max_attempts = 1))]
async fn nested_in_transaction(ctx: &TaskContext, what: String) -> anyhow::Result<()> {
    ctx.transaction("outer", async |tx| {
        sqlx::query("insert into nested_books values (1)")
            .execute(&mut *tx)
            .await?;
        match what.as_str() {
            "step" => ctx.step("inner", || async { anyhow::Ok(()) }).await?,
            "sleep" => ctx.sleep("inner", Duration::ZERO).await?,
            "invoke" => ctx.invoke::<NestedChild>("inner", ()).await?,
            "transaction" => ctx.transaction("inner", async |_tx| anyhow::Ok(())).await?,
            _ => {
                ctx.step("inner", || async {
                    ctx.transaction("innermost", async |_tx| anyhow::Ok(()))
                        .await
                })
                .await?
            }
        }
        anyhow::Ok(())
    })
    .await
}

#[conductor::test]
async fn a_transaction_is_no_place_to_wait_in(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table nested_books (n integer)").await?;
    let cases = [
        (
            "sleep",
            "the sleep \"inner\" is inside the body of a transaction",
        ),
        (
            "invoke",
            "the invoke \"inner\" is inside the body of a transaction",
        ),
        (
            "transaction",
            "the transaction \"inner\" is inside the body of a transaction",
        ),
        (
            "both",
            "the transaction \"innermost\" is inside the body of a transaction",
        ),
    ];
    for (what, words) in cases {
        let what = what.to_owned();
        let run = test
            .invoke::<NestedInTransaction>(NestedInTransaction { what })
            .await?;
        soon("its end", test.drain()).await?;
        let info = info(&test, run.id()).await?;
        assert_eq!((info.state, info.failures), (Status::Failed, 1));
        let error = info.error.unwrap();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(number(&test, "select count(*) from nested_books").await, 0);
    let children = "select count(*) from conductor.executions where task = 'nested.child'";
    assert_eq!(number(&test, children).await, 0);

    let what = "step".to_owned();
    let run = test
        .invoke::<NestedInTransaction>(NestedInTransaction { what })
        .await?;
    soon("its end", test.drain()).await?;
    run.result().await?;
    assert_eq!(number(&test, "select count(*) from nested_books").await, 1);
    Ok(())
}

static IN_LONG: Notify = Notify::const_new();
static LET_LONG_ON: Notify = Notify::const_new();

#[task(name = "nested.in-step", retry(max_attempts = 1))]
async fn nested_in_step(ctx: &TaskContext, what: String) -> anyhow::Result<()> {
    ctx.step("outer", || async {
        match what.as_str() {
            "sleep" => ctx.sleep("inner", Duration::ZERO).await?,
            "invoke" => ctx.invoke::<NestedChild>("inner", ()).await?,
            "joined" => {
                let inner = ctx.step("inner", || async { anyhow::Ok(()) });
                tokio::try_join!(inner, async {
                    Ok(ctx.sleep("sleep", Duration::ZERO).await?)
                })?;
            }
            _ => {
                IN_LONG.notify_one();
                LET_LONG_ON.notified().await;
                ctx.checkpoint().await?;
                ctx.step("inner", || async { anyhow::Ok(()) }).await?;
            }
        }
        anyhow::Ok(())
    })
    .await
}

#[conductor::test]
async fn a_step_is_no_place_to_wait_in(test: TestConductor) -> anyhow::Result<()> {
    let cases = [
        ("sleep", "the sleep \"inner\" is inside the body of a step"),
        (
            "invoke",
            "the invoke \"inner\" is inside the body of a step",
        ),
        ("joined", "the sleep \"sleep\" is inside the body of a step"),
    ];
    for (what, words) in cases {
        let what = what.to_owned();
        let run = test.invoke::<NestedInStep>(NestedInStep { what }).await?;
        soon("its end", test.drain()).await?;
        let info = info(&test, run.id()).await?;
        assert_eq!((info.state, info.failures), (Status::Failed, 1));
        let error = info.error.unwrap();
        assert!(error.contains(words), "{error}");
    }
    Ok(())
}

#[conductor::test]
async fn a_shutdown_lets_a_body_end_with_its_inner_steps(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    let what = "long".to_owned();
    let run = test.invoke::<NestedInStep>(NestedInStep { what }).await?;
    IN_LONG.notified().await;
    let (stopped, ()) = tokio::join!(biased; worker.stop(), async { LET_LONG_ON.notify_one() });
    stopped?;
    assert_eq!(run.status().await?, Status::Completed);
    Ok(())
}
