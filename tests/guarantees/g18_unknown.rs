//! G18: a worker claims only tasks that it has.

use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{count, declare, orchestrators, soon, start_with};

#[task(name = "g18-known")]
async fn g18_known(_ctx: &TaskContext) -> anyhow::Result<u32> {
    Ok(18)
}

async fn unknown_ones(test: &TestConductor, how_many: i32) -> anyhow::Result<()> {
    declare(test, "g18-unknown").await?;
    sqlx::query(
        "select conductor.invoke('g18-unknown', priority => 5) from generate_series(1, $1)",
    )
    .bind(how_many)
    .execute(test.pool())
    .await?;
    Ok(())
}

async fn untouched(test: &TestConductor) -> anyhow::Result<i64> {
    count(
        test,
        "task = 'g18-unknown' and state = 'pending' and claim = 0",
    )
    .await
}

#[conductor::test]
async fn an_unknown_task_waits_for_one_that_knows_it(test: TestConductor) -> anyhow::Result<()> {
    unknown_ones(&test, 1).await?;
    let run = test.invoke::<G18Known>(()).await?;
    // Drain ends, although something is due: not for this binary.
    test.drain().await?;
    assert_eq!(run.result().await?, 18);
    assert_eq!(untouched(&test).await?, 1);
    assert_eq!(orchestrators(&test).await?, 0);
    Ok(())
}

#[conductor::test]
async fn hundreds_of_unknown_ones_in_front_block_nobody(test: TestConductor) -> anyhow::Result<()> {
    unknown_ones(&test, 500).await?;
    let worker = start_with(&test, 2, ()).await?;
    let ids = test.invoke_batch::<G18Known>((0..100).map(|_| ())).await?;
    for id in ids {
        let run = test.execution::<G18Known>(id);
        assert_eq!(soon("the result", run.result()).await?, 18);
    }
    worker.stop().await?;
    assert_eq!(untouched(&test).await?, 500);
    Ok(())
}
