//! What a handler can do to its neighbours in the same process, and what it cannot.

use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Status};

use crate::support::{Gate, eventually, info, soon, start_with};

/// Takes every connection of the application's pool.
#[task(name = "neighbours-takes-the-pool")]
async fn neighbours_takes_the_pool(ctx: &TaskContext) -> anyhow::Result<()> {
    let (conductor, gate) = ctx.state::<(Conductor, Arc<Gate>)>();
    let mut held = Vec::new();
    while let Ok(Ok(connection)) =
        tokio::time::timeout(Duration::from_millis(500), conductor.pool().acquire()).await
    {
        held.push(connection);
    }
    gate.pass().await;
    Ok(())
}

#[task(name = "neighbours-steps")]
async fn neighbours_steps(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    ctx.step("one", || async { anyhow::Ok(n) }).await
}

#[conductor::test]
async fn one_that_takes_the_whole_pool_delays_nobody(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let conductor = Conductor::clone(&test);
    let worker = start_with(&test, 50, (conductor, Arc::clone(&gate))).await?;
    // A client of its own, as the other one finds no connection.
    let client = Conductor::connect_to(test.url()).await?;
    let holds = client.invoke::<NeighboursTakesThePool>(()).await?;
    gate.entered(1).await;
    for n in 0..10 {
        let run = client
            .invoke::<NeighboursSteps>(NeighboursSteps { n })
            .await?;
        assert_eq!(soon("a neighbour", run.result()).await?, n);
    }
    assert_eq!(holds.status().await?, Status::Running);
    gate.open(1);
    soon("the one that held it", holds.result()).await?;
    worker.stop().await?;
    Ok(())
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a panic in Drop");
    }
}

#[task(name = "neighbours-drops", retry(max_attempts = 1))]
async fn neighbours_drops(ctx: &TaskContext, how: String) -> anyhow::Result<()> {
    let bomb = Bomb;
    match how.as_str() {
        "end" => {}
        "suspension" => ctx.sleep("nap", Duration::from_secs(3600)).await?,
        "payload" => std::panic::panic_any(bomb),
        "timeout" | "abort" => ctx.state::<Arc<Gate>>().pass().await,
        _ => std::mem::forget(bomb),
    }
    Ok(())
}

#[conductor::test]
async fn a_panic_in_drop_fails_its_own_execution_only(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 50, Arc::clone(&gate)).await?;
    for how in ["end", "suspension", "payload"] {
        let how = how.to_owned();
        let run = test
            .invoke::<NeighboursDrops>(NeighboursDrops { how })
            .await?;
        let error = soon("its end", run.result()).await.unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
    }
    let how = "abort".to_owned();
    let aborted = test
        .invoke::<NeighboursDrops>(NeighboursDrops { how })
        .await?;
    gate.entered(1).await;
    crate::support::give_back(&test, aborted.id()).await?;
    let run = test
        .invoke::<NeighboursSteps>(NeighboursSteps { n: 7 })
        .await?;
    assert_eq!(soon("a neighbour", run.result()).await?, 7);
    assert_eq!(info(&test, run.id()).await?.crashes, 0);
    drop(worker);
    Ok(())
}

#[task(name = "neighbours-many")]
async fn neighbours_many(ctx: &TaskContext, futures: u32) -> anyhow::Result<u32> {
    let steps =
        (0..futures).map(|n| ctx.step(format!("s{n}"), move || async move { anyhow::Ok(n) }));
    Ok(u32::try_from(futures_util_join(steps).await?.len())?)
}

/// As `try_join_all` of the crate futures for many: polls each at every wake.
async fn futures_util_join<T, F: Future<Output = anyhow::Result<T>>>(
    futures: impl Iterator<Item = F>,
) -> anyhow::Result<Vec<T>> {
    let mut futures: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut waits = false;
        for (future, value) in &mut futures {
            if value.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(done) => *value = Some(done),
                    std::task::Poll::Pending => waits = true,
                }
            }
        }
        if waits {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, value)| value).collect()
}

#[conductor::test]
async fn ten_thousand_steps_at_once_leave_room_for_others(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start_with(&test, 50, Gate::new()).await?;
    let many = test
        .invoke::<NeighboursMany>(NeighboursMany { futures: 10_000 })
        .await?;
    eventually("it runs", || async {
        many.status().await.unwrap() == Status::Running
    })
    .await;

    for n in 0..5 {
        let run = test
            .invoke::<NeighboursSteps>(NeighboursSteps { n })
            .await?;
        assert_eq!(soon("a neighbour", run.result()).await?, n);
    }

    assert_eq!(soon("all steps", many.result()).await?, 10_000);

    worker.stop().await?;
    Ok(())
}
