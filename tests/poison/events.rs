//! Poison in events and filters: the others of the name go their way.

use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{declared, poisons};
use crate::support::{info, number, run_sql};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[event(name = "poison.sent")]
struct Sent {
    n: i64,
}

#[event(name = "poison.twice")]
struct Twice {
    n: i64,
}

#[task(name = "poison-hears", event(Sent, when = n >= 100))]
async fn poison_hears(_ctx: &TaskContext, payload: Sent) -> anyhow::Result<i64> {
    Ok(payload.n)
}

#[task(name = "poison-once", event(Twice))]
async fn poison_once(_ctx: &TaskContext, payload: Twice) -> anyhow::Result<i64> {
    Ok(payload.n)
}

#[task(name = "poison-waits", retry(max_attempts = 1))]
async fn poison_waits(ctx: &TaskContext, least: i64) -> anyhow::Result<i64> {
    let first = ctx
        .wait_for_event::<Sent>("first")
        .when(Sent::n.ge(least))
        .timeout(HOUR)
        .await?;
    let second = ctx
        .wait_for_event::<Sent>("second")
        .when(Sent::n.ge(least))
        .timeout(HOUR)
        .await?;
    Ok(first.n + second.n)
}

#[conductor::test]
async fn poison_in_events_stops_no_other_event(test: TestConductor) -> anyhow::Result<()> {
    let waits = test.invoke::<PoisonWaits>(PoisonWaits { least: 1 }).await?;
    let late = test
        .invoke::<PoisonWaits>(PoisonWaits { least: 1_000 })
        .await?;
    test.drain().await?;
    for table in ["events", "event_inbox"] {
        for json in poisons() {
            let (columns, values) = match table {
                "events" => ("id, name, payload, emitted_at", "conductor.now()"),
                _ => ("id, name, payload", ""),
            };
            let comma = if values.is_empty() { "" } else { ", " };
            let sql = format!(
                "insert into conductor.{table} ({columns})
                 select gen_random_uuid(), 'poison.sent', ({json})::json{comma}{values}"
            );
            run_sql(&test, &sql).await?;
        }
    }
    test.emit(Sent { n: 100 }).await?;
    test.emit(Sent { n: 101 }).await?;
    test.drain().await?;
    // Looks through the log, as does one whose time is over.
    let again = test.invoke::<PoisonWaits>(PoisonWaits { least: 1 }).await?;
    run_sql(
        &test,
        "update conductor.live_executions set created_at = created_at - interval '1 day'",
    )
    .await?;
    test.drain().await?;
    test.advance(2 * HOUR).await?;
    test.drain().await?;

    assert_eq!(waits.result().await?, 201);
    assert_eq!(again.result().await?, 201);
    assert_eq!(info(&test, late.id()).await?.state, Status::Failed);
    let inbox = "select count(*) from conductor.event_inbox";
    assert_eq!(number(&test, inbox).await, 0);
    let heard = "select count(*) from conductor.finished where task = 'poison-hears' and state = 'completed'";
    assert_eq!(number(&test, heard).await, 2);
    test.check().await?;
    Ok(())
}

#[conductor::test]
async fn odd_filters_and_records_stop_no_event(test: TestConductor) -> anyhow::Result<()> {
    let waits = test.invoke::<PoisonWaits>(PoisonWaits { least: 1 }).await?;
    test.drain().await?;
    let filters = [
        "1",
        "\"and\"",
        "[]",
        "{}",
        "null",
        r#"{"op":"and","of":{}}"#,
        r#"{"op":"eq","path":[{"a":1},[],null],"value":{}}"#,
        r#"{"op":"in","path":["n"],"values":7,"as":[]}"#,
        r#"{"op":"lt","path":["n"],"value":-9e131071}"#,
        r#"{"op":["and"],"of":[[]]}"#,
    ];
    let mut odd: Vec<String> = filters
        .iter()
        .map(|filter| format!("'{filter}'::jsonb"))
        .collect();
    odd.push(
        "(repeat('{\"op\":\"and\",\"of\":[', 1000) || 'null' || repeat(']}', 1000))::jsonb"
            .to_owned(),
    );
    odd.push(
        "(repeat('{\"op\":\"not\",\"of\":', 1000) || '{}' || repeat('}', 1000))::jsonb".to_owned(),
    );
    for (n, filter) in odd.iter().enumerate() {
        let sql = format!(
            "insert into conductor.waits (execution_id, key, kind, group_key, event_name, event_filter)
             values ($1, $2, 'event', 'a group of its own', 'poison.sent', {filter});"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(waits.id())
            .bind(format!("odd {n}"))
            .execute(test.pool())
            .await?;
        let sql = format!(
            "insert into conductor.subscriptions (task_id, event, n, filter, event_version, owner)
             select t.id, 'poison.sent', 100 + {n}, {filter}, 1, 'elsewhere'
               from conductor.tasks t where t.name = 'poison-hears'"
        );
        run_sql(&test, &sql).await?;
    }
    for (n, json) in poisons().enumerate() {
        for kind in ["event", "row"] {
            let sql = format!(
                "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
                 values ($1, $2, '{kind}', ({json})::json, now())"
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(waits.id())
                .bind(format!("{kind} {n}"))
                .execute(test.pool())
                .await?;
        }
    }
    for payload in [
        "{\"n\": 200}",
        "{\"n\": 9e131071}",
        "{\"n\": 201}",
        "{\"n\": 202}",
    ] {
        sqlx::query("select conductor.emit('poison.sent', $1::jsonb)")
            .bind(payload)
            .execute(test.pool())
            .await?;
    }
    test.drain().await?;
    let inbox = "select (select count(*) from conductor.event_inbox) + (select count(*) from conductor.event_deliveries)";
    assert_eq!(number(&test, inbox).await, 0);
    assert_ne!(info(&test, waits.id()).await?.state, Status::Running);
    let heard =
        "select count(distinct conductor.json_field(trigger, 'event_id')) from conductor.finished
                  where task = 'poison-hears' and state = 'completed'";
    assert_eq!(number(&test, heard).await, 3);
    Ok(())
}

/// One whose answer was lost is sent again, with the id that it had.
#[conductor::test]
async fn an_emit_that_is_sent_again_is_emitted_once(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    run_sql(
        &test,
        "insert into conductor.event_inbox (id, name, payload)
         select gen_random_uuid(), 'poison.twice', '{\"n\": 1}' from generate_series(1, 501)",
    )
    .await?;
    let id = Uuid::now_v7();
    for in_transaction in [false, true, false] {
        sqlx::query(
            "select conductor.emit_many(array[$1, $1], array['poison.twice', 'poison.twice'],
                            array['{\"n\": 2}', '{\"n\": 2}'], $2)",
        )
        .bind(id)
        .bind(in_transaction)
        .execute(test.pool())
        .await?;
    }
    test.drain().await?;
    // Once more when it is in the log, and one more that goes there straight.
    for id in [id, Uuid::now_v7()] {
        for _ in 0..2 {
            sqlx::query(
                "select conductor.emit_many(array[$1, $1], array['poison.twice', 'poison.twice'],
                                array['{\"n\": 2}', '{\"n\": 2}'], false)",
            )
            .bind(id)
            .execute(test.pool())
            .await?;
        }
    }
    test.drain().await?;
    let seen = "select count(*) from conductor.finished where task = 'poison-once' and payload->>'n' = '2'";
    assert_eq!(number(&test, seen).await, 2);
    let all = "select count(*) from conductor.finished where task = 'poison-once'";
    assert_eq!(number(&test, all).await, 503);
    Ok(())
}
