//! What a claim costs where most rows are not due.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use serde_json::Value;

use crate::support::{number, run_sql};

#[task]
async fn plans_nothing(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

const DUE: &str = "select count(*) from conductor.live_executions where run_at <= conductor.now()";

async fn fill(test: &TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    run_sql(
        test,
        "insert into conductor.live_executions
             (id, run_at, created_at, queue_id, task_id, priority, payload)
         select conductor.uuid7(), conductor.now() + d.delay, conductor.now(), t.queue_id, t.id,
                d.priority, 'null'
           from conductor.tasks t,
                (select interval '1 day' + n * interval '1 second' as delay, n % 5 as priority
                   from generate_series(1, 200000) n
                  union all
                 select interval '-1 second', n % 2 from generate_series(1, 1000) n) d
          where t.name = 'plans_nothing';
         insert into conductor.orchestrators
             (host, pid, queue_ids, task_ids, started_at, lease_until)
         values ('here', 1, '{}', '{}', now(), now() + interval '1 hour')",
    )
    .await?;
    Ok(())
}

/// Explains one claim of 100 rows; its milliseconds and blocks.
async fn claim(test: &TestConductor) -> anyhow::Result<(f64, u64)> {
    let plan: Value = sqlx::query_scalar(
        "explain (analyze, buffers, format json)
         select * from conductor.claim(
             (select max(id) from conductor.orchestrators),
             (select queue_id from conductor.tasks where name = 'plans_nothing'),
             array(select id from conductor.tasks), 100, false)",
    )
    .fetch_one(test.pool())
    .await?;
    let blocks = ["Shared Hit Blocks", "Shared Read Blocks"]
        .map(|name| plan[0]["Plan"][name].as_u64().unwrap());
    Ok((
        plan[0]["Execution Time"].as_f64().unwrap(),
        blocks.iter().sum(),
    ))
}

/// The best of a few, as the machine may have other things to do.
async fn claims_are_cheap(test: &TestConductor) -> anyhow::Result<()> {
    let due = number(test, DUE).await;
    let mut costs = Vec::new();
    for _ in 0..4 {
        costs.push(claim(test).await?);
    }
    let running = "select count(*) from conductor.live_executions where state = 'running'";
    assert_eq!(number(test, running).await, 400 + 1000 - due);
    let most_blocks = costs.iter().map(|(_, blocks)| *blocks).max().unwrap();
    let least_ms = costs.iter().map(|(ms, _)| *ms).fold(f64::MAX, f64::min);
    assert!(most_blocks < 5000 && least_ms < 100.0, "{costs:?}");
    Ok(())
}

#[conductor::test]
async fn a_claim_does_not_walk_past_delayed_rows(test: TestConductor) -> anyhow::Result<()> {
    fill(&test).await?;
    claims_are_cheap(&test).await
}

#[conductor::test]
async fn a_claim_is_as_cheap_with_statistics(test: TestConductor) -> anyhow::Result<()> {
    fill(&test).await?;
    run_sql(&test, "vacuum analyze conductor.live_executions").await?;
    claims_are_cheap(&test).await
}
