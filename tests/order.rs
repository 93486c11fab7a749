//! The order of claims: priority, then run_at, then id.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{Gate, count, eventually, start_with};

type Log = Arc<Mutex<Vec<String>>>;

#[task(name = "order-noted")]
async fn order_noted(ctx: &TaskContext, name: String) -> anyhow::Result<()> {
    ctx.state::<Log>().lock().unwrap().push(name);
    Ok(())
}

#[task(name = "order-preferred", priority = 7)]
async fn order_preferred(ctx: &TaskContext, name: String) -> anyhow::Result<()> {
    ctx.state::<Log>().lock().unwrap().push(name);
    Ok(())
}

#[task(name = "order-gated")]
async fn order_gated(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<(Arc<Gate>, Log)>().0.pass().await;
    Ok(())
}

fn noted(name: impl Into<String>) -> OrderNoted {
    OrderNoted { name: name.into() }
}

/// Runs all that is due, one at a time, and gives the order.
async fn run_all(test: &TestConductor) -> anyhow::Result<Vec<String>> {
    let log = Log::default();
    let worker = start_with(test, 1, log.clone()).await?;
    eventually("all have run", || async {
        count(test, "finished_at is null").await.unwrap() == 0
    })
    .await;
    worker.stop().await?;
    let log = log.lock().unwrap();
    Ok(log.clone())
}

#[conductor::test]
async fn higher_priority_first_then_earlier_then_older(test: TestConductor) -> anyhow::Result<()> {
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select conductor.now()")
        .fetch_one(test.pool())
        .await?;
    let ago = |seconds| now - Duration::from_secs(seconds);
    let plans = [
        ("low", -5, 500),
        ("middle, late", 0, 100),
        ("middle, early", 0, 400),
        ("middle, late, younger", 0, 100),
        ("high, late", 9, 100),
        ("high, early", 9, 300),
        ("highest", i32::MAX, 1),
        ("lowest", i32::MIN, 900),
    ];
    for (name, priority, age) in plans {
        test.invoke::<OrderNoted>(noted(name))
            .priority(priority)
            .run_at(ago(age))
            .await?;
    }
    test.invoke::<OrderPreferred>(OrderPreferred {
        name: "preferred by its task".into(),
    })
    .await?;
    assert_eq!(
        run_all(&test).await?,
        [
            "highest",
            "high, early",
            "high, late",
            "preferred by its task",
            "middle, early",
            "middle, late",
            "middle, late, younger",
            "low",
            "lowest"
        ]
    );
    Ok(())
}

#[conductor::test]
async fn many_of_one_instant_run_in_the_order_of_their_invokes(
    test: TestConductor,
) -> anyhow::Result<()> {
    // Fewer than make a second round trip worth while, which may overtake the first.
    let names: Vec<String> = (0..400).map(|n| format!("{n}")).collect();
    test.invoke_batch::<OrderNoted>(names.iter().map(|name| noted(name.as_str())))
        .await?;
    assert_eq!(run_all(&test).await?, names);
    Ok(())
}

#[conductor::test]
async fn what_comes_later_and_is_more_urgent_goes_first(test: TestConductor) -> anyhow::Result<()> {
    let (gate, log) = (Gate::new(), Log::default());
    let worker = test
        .orchestrator()
        .worker(Worker::queue("default").concurrency(1))
        .allow_unserved_queues()
        .state((gate.clone(), log.clone()))
        .state(log.clone())
        .build()?
        .start()
        .await?;
    test.invoke::<OrderGated>(()).await?;
    gate.entered(1).await;
    test.invoke::<OrderNoted>(noted("first")).await?;
    test.invoke::<OrderNoted>(noted("urgent"))
        .priority(1)
        .await?;
    gate.open(1);
    worker.drained().await?;
    worker.stop().await?;
    assert_eq!(*log.lock().unwrap(), ["urgent", "first"]);
    Ok(())
}
