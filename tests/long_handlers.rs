//! Handlers that take longer than a lease keep their claim, and a stuck one is seen.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Filter, Status, Stuck};

use crate::support::{Process, eventually, info, run_sql};

#[task(name = "long-waits", timeout = "1h")]
async fn long_waits(_ctx: &TaskContext, millis: u64) -> anyhow::Result<u32> {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Ok(std::process::id())
}

/// Never comes to an `.await`.
#[task(name = "long-blocks", timeout = "1h")]
async fn long_blocks(_ctx: &TaskContext, millis: u64) -> anyhow::Result<u32> {
    std::thread::sleep(Duration::from_millis(millis));
    Ok(std::process::id())
}

#[task(name = "long-limited", timeout = "200ms", retry(max_attempts = 1))]
async fn long_limited(_ctx: &TaskContext) -> anyhow::Result<()> {
    std::future::pending().await
}

/// Has a timeout and does not heed it.
#[task(name = "long-heedless", timeout = "200ms", retry(max_attempts = 1))]
async fn long_heedless(_ctx: &TaskContext, millis: u64) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_millis(millis));
    Ok(())
}

#[conductor::test]
async fn a_handler_longer_than_the_lease_keeps_its_claim(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = {
        let conductor = Conductor::clone(&test);
        test.state(conductor)
    };
    let millis = u64::try_from((Process::LEASE * 2).as_millis())?;
    let waits = test.invoke::<LongWaits>(LongWaits { millis }).await?;
    let blocks = test.invoke::<LongBlocks>(LongBlocks { millis }).await?;
    // Two: should the claim be lost, the other one would take it.
    let _processes = [Process::start(&test)?, Process::start(&test)?];
    for (id, _) in [
        (waits.id(), waits.result().await?),
        (blocks.id(), blocks.result().await?),
    ] {
        let info = info(&test, id).await?;
        assert_eq!((info.claim, info.failures, info.crashes), (1, 0, 0));
    }
    Ok(())
}

#[conductor::test]
async fn a_timeout_bounds_it(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<LongLimited>(()).await?;
    test.drain().await?;
    let info = info(&test, run.id()).await?;
    assert_eq!(info.state, Status::Failed);
    assert!(info.error.unwrap().contains("200ms"));
    Ok(())
}

#[conductor::test]
async fn one_that_does_not_heed_its_timeout_is_marked(test: TestConductor) -> anyhow::Result<()> {
    let _process = Process::start(&test)?;
    let run = test
        .invoke::<LongHeedless>(LongHeedless { millis: 4000 })
        .await?;
    let fine = test.invoke::<LongWaits>(LongWaits { millis: 4000 }).await?;
    eventually("it is marked", || async {
        let stuck = info(&test, run.id()).await.unwrap().stuck;
        matches!(stuck, Some(Stuck::Overtime(by)) if by > Duration::from_secs(1))
    })
    .await;
    let listed = test.list(&Filter::default()).await?;
    let marked: Vec<_> = listed.iter().filter(|info| info.stuck.is_some()).collect();
    assert_eq!(marked.len(), 1);
    assert_eq!(marked[0].id, run.id());
    assert_eq!(info(&test, fine.id()).await?.stuck, None);
    Ok(())
}

#[conductor::test]
async fn one_whose_process_is_gone_is_marked(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<LongWaits>(LongWaits { millis: 60_000 })
        .await?;
    let mut process = Process::start(&test)?;
    eventually("it runs", || async {
        run.status().await.unwrap() == Status::Running
    })
    .await;
    process.kill()?;
    assert_eq!(info(&test, run.id()).await?.stuck, None);
    run_sql(
        &test,
        "update conductor.orchestrators set lease_until = now() - interval '1 s'",
    )
    .await?;
    assert_eq!(info(&test, run.id()).await?.stuck, Some(Stuck::ProcessGone));
    Ok(())
}
