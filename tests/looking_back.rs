//! What a wait costs that looks back at the log: by its field, or in portions.

use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use serde_json::Value;

use crate::support::{number, run_sql};

const HOUR: Duration = Duration::from_secs(3600);

#[event(name = "back.seen")]
struct Seen {
    order: i64,
    weight: i64,
}

/// Waits for one order, or for one that is heavy enough, for an hour.
#[task(name = "back.looks", retry(max_attempts = 1))]
async fn looks(ctx: &TaskContext, order: Option<i64>, weight: i64) -> anyhow::Result<(i64, i64)> {
    ctx.sleep("first", Duration::from_secs(60)).await?;
    let filter = match order {
        Some(order) => Seen::order.eq(order).and(Seen::weight.ge(weight)),
        None => Seen::weight.ge(weight),
    };
    let seen = ctx
        .wait_for_event::<Seen>("seen")
        .when(filter)
        .timeout(HOUR)
        .await?;
    let filter = Seen::order.eq(seen.order + 1);
    let next = ctx
        .wait_for_event::<Seen>("next")
        .when(filter)
        .timeout(HOUR)
        .await?;
    Ok((seen.order, next.order))
}

/// Many events of the name, each of an order of its own.
async fn many(test: &TestConductor, from: i64, count: i64) -> anyhow::Result<()> {
    run_sql(
        test,
        &format!(
            "select conductor.emit_many(array_agg(conductor.uuid7()), array_agg('back.seen'::text),
                        array_agg(format('{{\"order\": %s, \"weight\": %s}}', n, n)), false)
               from generate_series({from}, {}) n",
            from + count - 1
        ),
    )
    .await?;
    Ok(())
}

async fn drained(test: &TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    while number(test, "select count(*) from conductor.event_deliveries").await > 0 {
        run_sql(test, "select conductor.dispatch(1000)").await?;
    }
    test.drain().await?;
    Ok(())
}

#[conductor::test]
async fn a_wait_finds_what_came_before_it(test: TestConductor) -> anyhow::Result<()> {
    let found = |order, weight| test.invoke::<Looks>(Looks { order, weight });
    // The first ones wait before their field is noted, the others behind 12,000 events.
    let early = found(Some(11_000), 0).await?;
    let ranged = found(None, 10_500).await?;
    let none = found(Some(11_000), 11_001).await?;
    test.drain().await?;
    many(&test, 1, 12_000).await?;
    test.advance(HOUR).await?;
    drained(&test).await?;
    let noted = found(Some(13_000), 0).await?;
    let later = found(Some(15_000), 0).await?;
    test.drain().await?;
    many(&test, 12_001, 3_000).await?;
    test.advance(Duration::from_secs(61)).await?;
    drained(&test).await?;
    many(&test, 15_001, 1).await?;
    drained(&test).await?;
    assert_eq!(early.result().await?, (11_000, 11_001));
    assert_eq!(ranged.result().await?, (10_500, 10_501));
    assert_eq!(noted.result().await?, (13_000, 13_001));
    assert_eq!(later.result().await?, (15_000, 15_001));
    assert_eq!(none.status().await?, Status::Suspended);
    let behind =
        "select count(*) from conductor.waits where seen_at is not null or event_hash = -1";
    assert_eq!(number(&test, behind).await, 0);
    test.advance(HOUR).await?;
    drained(&test).await?;
    assert_eq!(none.status().await?, Status::Failed);
    // What is pruned is found by no field any more.
    test.advance(Duration::from_secs(8 * 24 * 3600)).await?;
    while number(&test, "select conductor.prune_events(5000)::bigint").await > 0 {}
    assert_eq!(
        number(&test, "select count(*) from conductor.event_fields").await,
        0
    );
    Ok(())
}

/// What a statement reads, in blocks.
async fn blocks(test: &TestConductor, sql: &str) -> anyhow::Result<u64> {
    let sql = format!("explain (analyze, buffers, format json) {sql}");
    let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(test.pool())
        .await?;
    let read = |name: &str| plan[0]["Plan"][name].as_u64().unwrap();
    Ok(read("Shared Hit Blocks") + read("Shared Read Blocks"))
}

#[conductor::test]
async fn it_does_not_read_all_events_of_the_name(test: TestConductor) -> anyhow::Result<()> {
    // One wait, so that the field is noted; then a hundred thousand events, and waits behind them.
    test.invoke::<Looks>(Looks {
        order: Some(0),
        weight: 0,
    })
    .await?;
    test.drain().await?;
    test.advance(Duration::from_secs(61)).await?;
    test.drain().await?;
    let run = test
        .invoke::<Looks>(Looks {
            order: Some(-1),
            weight: 0,
        })
        .await?;
    test.drain().await?;
    // That nobody is handed them stands for a worker that has brought them to those who wait.
    run_sql(
        &test,
        r#"select conductor.publish(array_agg(conductor.uuid7()), array_agg('back.seen'::text),
                  array_agg(format('{"order": %s, "weight": %s}', n, n))) from generate_series(1, 100000) n;
           delete from conductor.event_deliveries"#,
    )
    .await?;
    // As the handler suspends, and as a claim settles what is too late.
    let id = run.id();
    run_sql(
        &test,
        &format!(
            "update conductor.live_executions set state = 'running', claim = 7 where id = '{id}';
             delete from conductor.waits where execution_id = '{id}'"
        ),
    )
    .await?;
    let suspend = |filter: &str| {
        format!(
            "select conductor.suspend(array['{id}'::uuid], array[7], array['{id}'::uuid], array['seen'], array['event'],
                 array['seen'], array[3600000::bigint], array[null::timestamptz], array[null::uuid], array[null::text],
                 array[null::text], array[false], array['back.seen'], array['{filter}'])"
        )
    };
    let by_field = r#"{"op": "eq", "path": ["order"], "value": 2000000}"#;
    let read = blocks(&test, &suspend(by_field)).await?;
    // Most of it are the catalogs, of a new session. It has come to the end of the log, which is more than a
    // portion has.
    assert!(read < 5000, "{read} blocks for a suspension");
    let behind = "select count(*) from conductor.waits where seen_at is not null";
    assert_eq!(number(&test, behind).await, 0);
    test.advance(HOUR).await?;
    let settle = format!("select conductor.settle(array['{id}'::uuid], conductor.now())");
    let read = blocks(&test, &settle).await?;
    assert!(read < 5000, "{read} blocks for a deadline");
    let over =
        "select count(*) from conductor.steps where key = 'seen' and value->>'state' = 'timed_out'";
    assert_eq!(number(&test, over).await, 1);
    // Without a field, a portion at a time.
    let again = format!(
        "update conductor.live_executions set state = 'running' where id = '{id}';
         delete from conductor.steps where execution_id = '{id}'"
    );
    run_sql(&test, &again).await?;
    let by_range = r#"{"op": "gt", "path": ["weight"], "value": 2000000}"#;
    let mut portions = 0;
    loop {
        let read = blocks(&test, &suspend(by_range)).await?;
        assert!(read < 15_000, "{read} blocks for a portion");
        portions += 1;
        if number(&test, behind).await == 0 {
            break;
        }
        assert!(portions < 20);
        run_sql(&test, &again).await?;
    }
    assert!(portions > 5, "{portions} portions");
    Ok(())
}
