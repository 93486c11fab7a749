//! Whatever starts an execution gives it its key.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use serde_json::json;
use uuid::Uuid;

use crate::support::number;

#[event(name = "turns.moved")]
pub struct Moved {
    pub account: i64,
}

#[task(
    name = "turns.moves",
    ordered_by = payload.account,
    event(Moved),
    retry(max_attempts = 1),
)]
async fn moves(_ctx: &TaskContext, payload: Moved) -> anyhow::Result<i64> {
    anyhow::ensure!(payload.account != 6, "no");
    Ok(payload.account)
}

#[task(name = "turns.parent")]
async fn parent(ctx: &TaskContext) -> anyhow::Result<i64> {
    Ok(ctx.invoke::<Moves>("child", Moved { account: 5 }).await?)
}

#[conductor::test]
async fn every_start_has_the_key_of_its_payload(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    test.invoke::<Moves>(Moved { account: 1 }).await?;
    test.emit(Moved { account: 2 }).await?;
    test.schedule::<Moves>("yearly", "0 0 1 1 *", Moved { account: 4 })
        .await?;
    test.trigger_schedule("turns.moves", "yearly").await?;
    let parent = test.invoke::<Parent>(()).await?;
    let failed = test
        .invoke::<Moves>(Moved { account: 6 })
        .dedupe_key("six")
        .await?;
    let seven: Uuid = sqlx::query_scalar("select conductor.invoke('turns.moves', $1)")
        .bind(json!({"account": 7}))
        .fetch_one(test.pool())
        .await?;
    assert_eq!(keys(&test).await?, ["1", "2", "4", "6", "7"]);
    test.drain().await?;
    assert_eq!(parent.result().await?, 5);
    assert_eq!(test.execution::<Moves>(seven).result().await?, 7);
    test.retry(failed.id()).await?;
    assert_eq!(keys(&test).await?, ["6"]);
    test.drain().await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.turns").await,
        0
    );
    Ok(())
}

async fn keys(test: &TestConductor) -> anyhow::Result<Vec<String>> {
    let keys =
        "select order_key from conductor.live_executions where order_key is not null order by 1";
    Ok(sqlx::query_scalar(keys).fetch_all(test.pool()).await?)
}

/// The look that decides between the two ways of a claim may be older than the executions that the claim finds.
#[conductor::test]
async fn a_claim_that_meets_them_by_surprise_keeps_their_order(
    test: TestConductor,
) -> anyhow::Result<()> {
    for _ in 0..3 {
        test.invoke::<Moves>(Moved { account: 1 }).await?;
    }
    let claimed = "with orchestrator as (
             select conductor.start_orchestrator('here', 1, array[t.queue_id], array[t.id], '1 hour') as id, t.id as task_id,
                    t.queue_id
               from conductor.tasks t where t.name = 'turns.moves'
         )
         select count(c.id) from orchestrator o
          cross join lateral conductor.claim_plain(
                p_orchestrator => o.id, p_queue => o.queue_id, p_tasks => array[o.task_id], p_limit => 10,
                p_paused => false, p_idle => false, p_bytes => 1000, p_seen => null, p_from => null) c";
    assert_eq!(number(&test, claimed).await, 1);
    Ok(())
}
