//! Poison in what is recorded: old executions can be shown and repeated.

use conductor::Status;
use conductor::testing::TestConductor;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{PoisonPlain, declared, poisons, put, raw};
use crate::support::{count, info, run_sql};

/// What a child's end, or an event that came, is recorded as, around a value.
const FORMS: [(&str, &str); 4] = [
    (
        "invoke",
        "json_build_object('id', gen_random_uuid(), 'state', 'completed', 'output', ({})::json)",
    ),
    (
        "event",
        "json_build_object('event', gen_random_uuid(), 'emitted_at', now(), 'payload', ({})::json)",
    ),
    (
        "row",
        "json_build_object('event', gen_random_uuid(), 'emitted_at', now(), 'filter', 7, 'payload', ({})::json)",
    ),
    ("step", "({})::json"),
];

async fn record(
    test: &TestConductor,
    id: Uuid,
    key: &str,
    kind: &str,
    sql: &str,
) -> anyhow::Result<()> {
    let sql = format!(
        "insert into conductor.steps (execution_id, key, kind, value, recorded_at) values ($1, $2, $3, {sql}, now())"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(id)
        .bind(key)
        .bind(kind)
        .execute(test.pool())
        .await?;
    Ok(())
}

#[conductor::test]
async fn poison_in_records_can_be_shown_and_repeated(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let mut ids = Vec::new();
    for json in poisons() {
        let id = put(&test, "poison-plain", json).await?;
        for (n, (kind, form)) in FORMS.iter().enumerate() {
            let form = form.replace("{}", json);
            record(&test, id, &format!("built {n}"), kind, &form).await?;
            record(
                &test,
                id,
                &format!("bare {n}"),
                kind,
                &format!("({json})::json"),
            )
            .await?;
        }
        ids.push(id);
    }
    // As if they had been claimed before, so that their records are loaded.
    run_sql(&test, "update conductor.live_executions set claim = 1").await?;
    test.check().await?;
    for id in &ids {
        test.cancel(*id).await?;
        // Finished with an output that is poison as well.
        sqlx::query(
            "update conductor.finished_executions f set output = f.payload where f.id = $1",
        )
        .bind(id)
        .execute(test.pool())
        .await?;
    }
    let mut repeats = Vec::new();
    for id in &ids {
        let story = test.story(*id).await?.unwrap();
        assert_eq!(story.steps.len(), 2 * FORMS.len());
        assert!(!story.children.is_empty());
        assert!(!test.children(&[*id], 10).await?.is_empty());
        let repeat = test.retry(*id).await?.unwrap();
        let kept: i64 = sqlx::query_scalar(
            "select count(*) from conductor.steps where execution_id = $1 and key like 'built %'",
        )
        .bind(repeat)
        .fetch_one(test.pool())
        .await?;
        assert_eq!(
            kept,
            i64::try_from(FORMS.len())?,
            "what completed is not lost"
        );
        test.story(repeat).await?;
        repeats.push(repeat);
    }
    test.list(&conductor::Filter::default()).await?;
    let plain = test.invoke::<PoisonPlain>(raw("7")).await?;
    test.drain().await?;
    assert_eq!(plain.result().await?, 1);
    for id in repeats {
        let info = info(&test, id).await?;
        assert_eq!(info.state, Status::Completed, "{:?}", info.error);
    }
    assert_eq!(count(&test, "finished_at is null").await?, 0);
    Ok(())
}
