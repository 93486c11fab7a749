//! What no JSON reader takes as a text ends its execution; what another build may read is left for it.

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{PoisonPlain, declared, put, raw};
use crate::support::{info, run_sql};

const HALF: &str = r#""\ud83d""#;

#[event(name = "poison.told")]
struct Told {
    note: String,
}

#[task(name = "poison-says", retry(max_attempts = 5, backoff = "1h"))]
async fn poison_says(_ctx: &TaskContext, note: String, n: Option<f64>) -> anyhow::Result<String> {
    Ok(format!("{note} {n:?}"))
}

#[task(name = "poison-says-together", batch(max_size = 4, max_wait = "1ms"))]
async fn poison_says_together(
    _ctx: &BatchContext,
    items: Vec<Note>,
) -> anyhow::Result<Vec<String>> {
    Ok(items.into_iter().map(|item| item.note).collect())
}

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Note {
    note: String,
}

/// Reads what is recorded, of one kind.
#[task(name = "poison-reads", retry(max_attempts = 5, backoff = "1h"))]
async fn poison_reads(ctx: &TaskContext, kind: String) -> anyhow::Result<String> {
    match kind.as_str() {
        "step" => {
            ctx.step("key", || async { anyhow::Ok(String::new()) })
                .await
        }
        "event" => Ok(ctx.wait_for_event::<Told>("key").await?.note),
        _ => {
            let note = String::new();
            let child = ctx.invoke::<PoisonSays>("key", PoisonSays { note, n: None });
            // A handler that swallows each error of its child's.
            Ok(child.await.unwrap_or_default())
        }
    }
}

async fn of_records(test: &TestConductor, kind: &str, value: &str) -> anyhow::Result<Uuid> {
    let id = put(test, "poison-reads", &format!("'{{\"kind\":\"{kind}\"}}'")).await?;
    let sql = format!(
        "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         values ($1, 'key', $2, ({value})::json, now())"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(id)
        .bind(kind)
        .execute(test.pool())
        .await?;
    run_sql(
        test,
        "update conductor.live_executions set claim = 1 where claim = 0",
    )
    .await?;
    Ok(id)
}

/// Of payloads, batches, and each kind of record.
#[conductor::test]
async fn what_no_build_can_read_fails_for_good(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let note = format!("'{{\"note\":{HALF}}}'");
    let child = format!(
        "json_build_object('id', gen_random_uuid(), 'state', 'completed', 'output', '{HALF}'::json)"
    );
    let event = format!(
        "json_build_object('event', gen_random_uuid(), 'emitted_at', now(), 'payload', {note}::json)"
    );
    let cases = [
        (put(&test, "poison-says", &note).await?, "its payload"),
        (
            put(&test, "poison-says-together", &note).await?,
            "its payload",
        ),
        (
            of_records(&test, "step", &format!("'{HALF}'")).await?,
            "what its step \"key\" has recorded",
        ),
        (
            of_records(&test, "invoke", &child).await?,
            "the output of its child",
        ),
        (
            of_records(&test, "event", &event).await?,
            "the event \"poison.told\"",
        ),
    ];
    let together = put(&test, "poison-says-together", "'{\"note\":\"fine\"}'").await?;
    let plain = test.invoke::<PoisonPlain>(raw("7")).await?;
    test.drain().await?;
    for (id, what) in cases {
        let info = info(&test, id).await?;
        let error = info.error.unwrap_or_default();
        assert_eq!(
            (info.state, info.failures),
            (Status::Failed, 1),
            "{what}: {error}"
        );
        assert!(
            error.starts_with(&format!("no build can read {what}")),
            "{error}"
        );
        assert!(error.contains("half of a surrogate pair"), "{error}");
        assert_eq!(info.unreadable, None);
    }
    assert_eq!(info(&test, together).await?.state, Status::Completed);
    assert_eq!(plain.result().await?, 1);
    Ok(())
}

/// Faults of syntax to serde that are none, and half a pair where this build does not look.
#[conductor::test]
async fn what_another_build_may_read_is_left_or_read(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let deep = format!("'{{\"note\":{}{}}}'", "[".repeat(3000), "]".repeat(3000));
    let mut left = Vec::new();
    for json in [
        r#"'{"note":"a","n":1e999}'"#,
        r#"'{"note":7,"other":"\ud83d"}'"#,
        r#"'{"n":1}'"#,
        &deep,
    ] {
        left.push(put(&test, "poison-says", json).await?);
    }
    let ignored = put(&test, "poison-says", r#"'{"note":"a","other":"\ud83d"}'"#).await?;
    test.drain().await?;
    for id in left {
        let info = info(&test, id).await?;
        assert_eq!(
            (info.state, info.failures),
            (Status::Pending, 0),
            "{:?}",
            info.error
        );
        assert!(info.unreadable.is_some());
    }
    assert_eq!(info(&test, ignored).await?.state, Status::Completed);
    Ok(())
}
