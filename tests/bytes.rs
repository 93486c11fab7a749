//! What is large harms nobody else: inbox, claims, records, answers and memory are bounded in bytes.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{eventually, number, run_sql};

#[event]
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct BytesSmall {
    n: i64,
}

#[task(event(BytesSmall))]
async fn bytes_heard(_ctx: &TaskContext, payload: BytesSmall) -> anyhow::Result<i64> {
    Ok(payload.n)
}

/// Large values of a test are stored quickly, where the server can.
async fn stored_quickly(test: &TestConductor) {
    for column in [
        "event_inbox alter payload",
        "events alter payload",
        "steps alter value",
        "live_executions alter payload",
        "finished_executions alter payload",
        "finished_executions alter output",
    ] {
        let _ = run_sql(
            test,
            &format!("alter table conductor.{column} set compression lz4"),
        )
        .await;
    }
}

#[conductor::test]
async fn more_than_a_gigabyte_in_the_inbox_is_dispatched(
    test: TestConductor,
) -> anyhow::Result<()> {
    stored_quickly(&test).await;
    // Each may have 16 MiB, and an array ends at a gigabyte.
    run_sql(
        &test,
        "with large as materialized (select to_json(repeat('x', 15 * 1024 * 1024)) as payload)
         insert into conductor.event_inbox (id, name, payload)
         select gen_random_uuid(), 'bytes_other', l.payload from large l, generate_series(1, 75) n",
    )
    .await?;
    run_sql(&test, "select conductor.emit('bytes_small', '{\"n\": 7}')").await?;
    // One portion has no more than one that passes 16 MiB, whatever is there.
    run_sql(&test, "select conductor.dispatch(1000)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.event_inbox").await,
        74
    );
    // What is oldest comes first, so that the next ones take the rest.
    run_sql(
        &test,
        "delete from conductor.event_inbox where n > 4 and name = 'bytes_other'",
    )
    .await?;
    let worker = test.orchestrator().build()?.start().await?;
    let heard = "select count(*) from conductor.finished_executions where output::text = '7'";
    eventually("the small event", async || number(&test, heard).await == 1).await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn many_busy_names_do_not_keep_the_first_one_waiting(
    test: TestConductor,
) -> anyhow::Result<()> {
    // Names are taken sixteen at a time: those that came first, and not by what they are called.
    for n in 0..24 {
        run_sql(
            &test,
            &format!("select conductor.emit('bytes_{n}', '{{}}')"),
        )
        .await?;
    }
    for n in (0..24).rev() {
        run_sql(
            &test,
            &format!("select conductor.emit('bytes_{n}', '{{}}')"),
        )
        .await?;
    }
    run_sql(&test, "select conductor.dispatch(1)").await?;
    let first = "select count(*) from conductor.events where name = 'bytes_0'";
    assert_eq!(number(&test, first).await, 1);
    run_sql(&test, "select conductor.dispatch(40)").await?;
    let left = "select count(distinct name) from conductor.event_inbox";
    assert_eq!(number(&test, left).await, 8);
    for n in 1..=16 {
        let of = format!("select count(*) from conductor.event_inbox where name = 'bytes_{n}'");
        assert_eq!(number(&test, &of).await, 0, "bytes_{n}");
    }
    Ok(())
}

#[conductor::test]
async fn a_dispatch_that_fails_keeps_no_worker_from_starting(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(
        &test,
        "create or replace function conductor.dispatch(p_limit integer) returns boolean language plpgsql as $$
         begin raise exception 'refused by the test'; end $$",
    )
    .await?;
    let worker = test.orchestrator().build()?.start().await?;
    let heard = test.invoke::<BytesHeard>(BytesSmall { n: 3 }).await?;
    assert_eq!(heard.result().await?, 3);
    worker.stop().await?;
    Ok(())
}
