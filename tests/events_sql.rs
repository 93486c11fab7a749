//! Events in SQL: what filters let through, and who may emit.

use conductor::testing::TestConductor;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::{Role, number, run_sql, sqlstate};

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

/// What a wait is found by must never hide an event from it.
#[conductor::test]
async fn a_hash_hides_no_match(test: TestConductor) -> anyhow::Result<()> {
    let values = [
        json!(1),
        json!(1.0),
        json!(-0.0),
        json!(0),
        json!(100),
        json!(1e2),
        json!("1"),
        json!(""),
        json!("a long identifier, such as a uuid"),
        json!(true),
        json!(false),
        json!(null),
        json!([1]),
        json!({"b": 1}),
        json!({"b": {"b": "1"}, "1": true}),
        json!("2026-01-01T12:00:00Z"),
    ];
    let paths: [&[&str]; 7] = [
        &["a"],
        &["a", "b"],
        &["a", "b", "b"],
        &["a", "1"],
        &["a", "0"],
        &["b"],
        &[],
    ];
    let mut filters = Vec::new();
    for value in &values {
        for path in paths {
            filters.push(compare("eq", path, value.clone()));
            let mut time = compare("eq", path, value.clone());
            time["as"] = json!("time");
            filters.push(time);
        }
    }
    let plain = filters.clone();
    for (n, filter) in plain.iter().enumerate() {
        let other = &plain[(n * 7 + 3) % plain.len()];
        let one = json!({"op": "and", "of": [other, filter]});
        filters.push(json!({"op": "and", "of": [one, {"op": "and", "of": []}]}));
        if n % 8 == 0 {
            filters.push(json!({"op": "or", "of": [other, filter]}));
            filters.push(json!({"op": "not", "of": filter}));
        }
    }
    let mut payloads: Vec<Value> = values.to_vec();
    for a in &values {
        payloads.push(json!({"a": a, "b": "1"}));
        payloads.push(json!({"a": {"b": a, "1": a, "0": 1}}));
        payloads.push(json!({"a": [a, a]}));
    }
    let (tried, matched, hashed, hidden): (i64, i64, i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where matched), count(*) filter (where matched and hash <> 0),
                count(*) filter (where matched and hash <> all (hashes))
           from (select conductor.matches(f, p.payload) as matched, conductor.filter_hash(f) as hash, p.hashes
                   from unnest($1::jsonb[]) as f
                  cross join (select payload, conductor.field_hashes(payload) as hashes
                                from unnest($2::jsonb[]) as payload) p) tried",
    )
    .bind(&filters)
    .bind(&payloads)
    .fetch_one(test.pool())
    .await?;
    println!("{tried} tried, {matched} match, {hashed} of them by a hash");
    assert!(hashed > 50 && matched > hashed);
    assert_eq!(hidden, 0);
    Ok(())
}

#[conductor::test]
async fn what_tells_most_apart_is_hashed(test: TestConductor) -> anyhow::Result<()> {
    let id = compare("eq", &["id"], json!("0199f3c4-1111-7000-8000-000000000000"));
    let number = compare("eq", &["n"], json!(7));
    let text = compare("eq", &["plan"], json!("pro"));
    let flag = compare("eq", &["new"], json!(true));
    let cases = [
        (
            json!([flag, text, number, id]),
            json!({"id": "0199f3c4-1111-7000-8000-000000000000"}),
        ),
        (json!([flag, text, number]), json!({"n": 7.0})),
        (
            json!([flag, text, compare("gt", &["n"], json!(1))]),
            json!({"plan": "pro"}),
        ),
        (json!([flag]), json!({"new": true})),
    ];
    for (of, payload) in cases {
        let found: bool = sqlx::query_scalar(
            "select conductor.filter_hash(jsonb_build_object('op', 'and', 'of', $1)) = h.hashes[2]
               from (select array(select h from unnest(conductor.field_hashes($2)) h order by h <> 0, h)
                            as hashes) h",
        )
        .bind(&of)
        .bind(&payload)
        .fetch_one(test.pool())
        .await?;
        assert!(found, "{of}");
    }
    Ok(())
}

#[conductor::test]
async fn a_role_may_be_allowed_to_emit_and_nothing_else(test: TestConductor) -> anyhow::Result<()> {
    let role = Role::new(&test).await;
    role.owner_runs(
        &test,
        "grant usage on schema conductor to {role};
         grant execute on function conductor.emit to {role}",
    )
    .await;
    let pool = role.pool();
    sqlx::query(r#"select conductor.emit('sql.role', '{"n": 1}')"#)
        .execute(&pool)
        .await?;
    for refused in [
        "select conductor.emit_many(array[gen_random_uuid()], array['e'], array['{}'], true)",
        "select conductor.dispatch(1)",
        "select conductor.publish('{}', '{}', '{}')",
        "select conductor.deliver('e', 1)",
        "select conductor.lock_events('{e}', true)",
        "select conductor.declare_subscriptions('{}', '{}', '[]', '[]')",
        "select conductor.prune_events(1)",
        "select conductor.watch_event(gen_random_uuid())",
        "select * from conductor.events",
        "select * from conductor.event_inbox",
        "insert into conductor.event_inbox (id, name, payload) values (gen_random_uuid(), 'e', '{}')",
        "delete from conductor.subscriptions",
    ] {
        let error = sqlx::query(refused).execute(&pool).await.unwrap_err();
        assert_eq!(
            sqlstate(&error).as_deref(),
            Some("42501"),
            "{refused}: {error}"
        );
    }
    pool.close().await;
    run_sql(&test, "select conductor.dispatch(10)").await?;
    let name: String = sqlx::query_scalar("select name from conductor.events")
        .fetch_one(test.pool())
        .await?;
    assert_eq!(name, "sql.role");
    Ok(())
}

/// What one has said must not keep others from being heard.
#[conductor::test]
async fn hostile_events_disturb_no_other(test: TestConductor) -> anyhow::Result<()> {
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let emit = |name: &str, payload: String| {
        let (name, pool) = (name.to_owned(), test.pool().clone());
        async move {
            let emitted = sqlx::query("select conductor.emit($1, $2::text::jsonb)")
                .bind(name)
                .bind(payload)
                .execute(&pool)
                .await;
            emitted.map(drop).map_err(|error| sqlstate(&error))
        }
    };
    let refused = |state: &str| Err(Some(state.to_owned()));
    assert_eq!(emit("sql.deep", deep(121)).await, refused("CD002"));
    // Refused where it is read, or by the depth of Postgres's own stack.
    assert!(emit("sql.deep", deep(10_000)).await.is_err());
    assert!(emit("sql.nul", r#""\u0000""#.to_owned()).await.is_err());
    let huge = format!("\"{}\"", "x".repeat(16 * 1024 * 1024 + 1));
    assert_eq!(emit("sql.huge", huge).await, refused("CD002"));

    let large = format!("{{\"text\": \"{}\"}}", "x".repeat(4 * 1024 * 1024));
    let many: String = (0..5000).map(|n| format!("\"field {n}\": {n}, ")).collect();
    for (name, payload) in [
        ("sql.deep", deep(120)),
        ("sql.large", large),
        ("sql.many", format!("{{{many}\"last\": 1}}")),
        (
            "'; drop table conductor.events; --",
            r#"{"$1": "'; --", "\\": "\\u0000"}"#.to_owned(),
        ),
        ("$1", r#""$$; select 1""#.to_owned()),
        ("sql.odd", "1e131071".to_owned()),
    ] {
        // One that waits, of an execution that has ended.
        sqlx::query(
            "insert into conductor.waits (execution_id, key, kind, group_key, event_name, event_filter)
             values (gen_random_uuid(), 'k', 'event', 'k', $1, $2)",
        )
        .bind(name)
        .bind(compare("lt", &["$1", "'; --"], json!(1)))
        .execute(test.pool())
        .await?;
        assert_eq!(emit(name, payload).await, Ok(()), "{name}");
    }
    run_sql(&test, "select conductor.dispatch(100)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.waits").await,
        0
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.event_inbox").await,
        0
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        6
    );
    Ok(())
}
