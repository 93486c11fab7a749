//! A limit with a key that is new for each execution: lanes go as fast as they come, and their numbers do
//! not run out.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{eventually, narrow, number, run_sql, size, soon};

#[task(name = "lanes.order", concurrency(limit = 1, key = payload.order))]
async fn lanes_order(_ctx: &TaskContext, order: i64) -> anyhow::Result<i64> {
    Ok(order)
}

#[conductor::test]
async fn the_numbers_of_lanes_begin_again(test: TestConductor) -> anyhow::Result<()> {
    let worker = test
        .orchestrator()
        .worker(narrow(5))
        .allow_unserved_queues()
        .build()?
        .start()
        .await?;
    for order in 0..3 {
        let run = test.invoke::<LanesOrder>(LanesOrder { order }).await?;
        assert_eq!(soon("an order", run.result()).await?, order);
    }
    run_sql(
        &test,
        "alter table conductor.lanes alter column id restart with 2147483646",
    )
    .await?;
    for order in 3..8 {
        let run = test.invoke::<LanesOrder>(LanesOrder { order }).await?;
        assert_eq!(soon("an order", run.result()).await?, order);
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn idle_lanes_go_at_once_however_many(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<LanesOrder>(LanesOrder { order: 0 }).await?;
    let worker = test
        .orchestrator()
        .worker(narrow(5))
        .allow_unserved_queues()
        .heartbeat(Duration::from_millis(200), Duration::from_secs(60))
        .build()?
        .start()
        .await?;
    run_sql(
        &test,
        &"insert into conductor.lanes (limit_id, task_id, key)
         select c.id, c.task_id, 'k' || n from conductor.limits c, generate_series(1, {lanes}) as n
          where c.task_id is not null;
         update conductor.chores set due_at = now() where name = 'prune'"
            .replace("{lanes}", &size(3_000, 12_000).to_string()),
    )
    .await?;
    let lanes = "select count(*) from conductor.lanes";
    eventually("they go", || async { number(&test, lanes).await < 10 }).await;
    worker.stop().await?;
    Ok(())
}
