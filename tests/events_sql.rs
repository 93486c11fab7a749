//! Events in SQL: what filters let through, and who may emit.

use conductor::testing::TestConductor;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::{number, run_sql, sqlstate};

async fn matches(test: &TestConductor, filter: Value, payload: &Value) -> bool {
    sqlx::query_scalar("select conductor.matches($1, $2)")
        .bind(filter)
        .bind(payload)
        .fetch_one(test.pool())
        .await
        .unwrap()
}

fn compare(op: &str, path: &[&str], value: Value) -> Value {
    json!({"op": op, "path": path, "value": value})
}

#[conductor::test]
async fn numbers_texts_and_booleans_compare_by_their_kind(
    test: TestConductor,
) -> anyhow::Result<()> {
    let payload = json!({"n": 9, "half": 0.5, "s": "pro", "yes": true, "nothing": null,
                         "inner": {"city": "Köln"}, "list": [1], "at": "2026-01-01T12:00:00.5Z"});
    let cases = [
        ("eq", "n", json!(9.0), true),
        ("lt", "n", json!(10), true),
        ("gt", "n", json!(10), false),
        ("ge", "half", json!(0.5), true),
        ("ne", "half", json!(1), true),
        ("eq", "s", json!("pro"), true),
        ("lt", "s", json!("q"), true),
        // Bytes count, not a language: "Z" is before "a".
        ("gt", "s", json!("Z"), true),
        ("eq", "yes", json!(true), true),
        ("ne", "yes", json!(false), true),
        ("lt", "yes", json!(true), false),
        // Other pairs of types are false, also under ne.
        ("eq", "n", json!("9"), false),
        ("ne", "n", json!("9"), false),
        ("ne", "nothing", json!(1), false),
        ("eq", "nothing", json!(null), false),
        ("ne", "missing", json!(1), false),
        ("ne", "list", json!([2]), false),
        ("ne", "inner", json!("x"), false),
        ("like", "s", json!("pro"), false),
    ];
    for (op, field, value, expected) in cases {
        let filter = compare(op, &[field], value);
        let found = matches(&test, filter.clone(), &payload).await;
        assert_eq!(found, expected, "{filter}");
    }
    let city = compare("eq", &["inner", "city"], json!("Köln"));
    assert!(matches(&test, city.clone(), &payload).await);
    let time =
        |op: &str, value: &str| json!({"op": op, "path": ["at"], "value": value, "as": "time"});
    for (filter, expected) in [
        (time("gt", "2026-01-01T12:00:00Z"), true),
        (time("eq", "2026-01-01T13:00:00.500+01:00"), true),
        (time("ne", "tomorrow"), false),
        (time("lt", "9999999-99-99T99:99:99Z"), false),
        (json!({"op": "null", "path": ["nothing"]}), true),
        (json!({"op": "null", "path": ["inner", "street"]}), true),
        (json!({"op": "null", "path": ["n"]}), false),
        (json!({"op": "in", "path": ["n"], "values": ["9", 9]}), true),
        (json!({"op": "in", "path": ["n"], "values": []}), false),
        (json!({"op": "not", "of": city}), false),
        (json!({"op": "and", "of": []}), true),
        (json!({"op": "or", "of": []}), false),
        (json!(null), true),
    ] {
        let found = matches(&test, filter.clone(), &payload).await;
        assert_eq!(found, expected, "{filter}");
    }
    Ok(())
}

#[conductor::test]
async fn what_is_no_filter_is_false_and_no_error(test: TestConductor) -> anyhow::Result<()> {
    let payload = json!({"a": 1, "it's": {"\"; drop table x; --": 2}});
    for filter in [
        json!({}),
        json!(7),
        json!([]),
        json!({"op": "and", "of": 7}),
        json!({"op": "in", "path": ["a"], "values": 1}),
        json!({"op": "not", "of": 1}),
        json!({"op": "eq", "path": "a", "value": 1}),
        json!({"op": "eq", "path": [null, {}], "value": 1}),
    ] {
        assert!(!matches(&test, filter.clone(), &payload).await, "{filter}");
    }
    let hostile = compare("eq", &["it's", "\"; drop table x; --"], json!(2));
    assert!(matches(&test, hostile, &payload).await);
    for odd in [json!(null), json!([]), json!("text"), json!(1)] {
        assert!(!matches(&test, compare("eq", &["a"], json!(1)), &odd).await);
    }
    Ok(())
}

#[conductor::test]
async fn an_emit_in_sql_is_in_the_log_once_it_is_dispatched(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut tx = test.pool().begin().await?;
    sqlx::query(r#"select conductor.emit('sql.said', '{"n": 1}')"#)
        .execute(&mut *tx)
        .await?;
    tx.rollback().await?;
    run_sql(&test, r#"select conductor.emit('sql.said', '{"n": 2}')"#).await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        0
    );
    run_sql(&test, "select conductor.dispatch(10)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        1
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.event_inbox").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn an_event_that_is_sent_again_is_emitted_once(test: TestConductor) -> anyhow::Result<()> {
    let sql = r#"select conductor.emit_many(
        array['01900000-0000-7000-8000-000000000001'::uuid], array['sql.again'], array['{}'], false)"#;
    run_sql(&test, sql).await?;
    run_sql(&test, sql).await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        1
    );
    Ok(())
}

#[conductor::test]
async fn what_cannot_be_an_event_is_refused(test: TestConductor) -> anyhow::Result<()> {
    for (name, code) in [
        ("null", "CD002"),
        ("''", "CD002"),
        ("repeat('x', 101)", "CD002"),
    ] {
        let sql = format!("select conductor.emit({name}::text)");
        let refused = sqlx::query(AssertSqlSafe(sql)).execute(test.pool()).await;
        assert_eq!(sqlstate(&refused.unwrap_err()).as_deref(), Some(code));
    }
    // jsonb cannot hold it, so that no filter could read it.
    let refused = run_sql(
        &test,
        "select conductor.emit_many(array[conductor.uuid7()], array['e'], array['1e999999'], true)",
    );
    assert!(refused.await.is_err());
    Ok(())
}
