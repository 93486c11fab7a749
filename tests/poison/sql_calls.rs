//! invoke_many, which programs in other languages call, checks what invoke checks.

use conductor::testing::TestConductor;
use conductor::{Filter, Status};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{PoisonPlain, declared, put, raw};
use crate::support::{info, number, run_sql, sqlstate};

/// A call of one, of which some arguments are others; `$1` is its id.
fn call(changed: &[(&str, &str)]) -> String {
    let mut arguments = [
        ("ids", "array[$1]"),
        ("tasks", "array['poison-plain']"),
        ("payloads", "array['1']"),
        ("run_at", "array[null::timestamptz]"),
        ("delay", "array[null::bigint]"),
        ("priority", "array[null::integer]"),
        ("in_transaction", "false"),
        ("again", "false"),
        ("keys", "array[null::text]"),
        ("throttle", "array[null::bigint]"),
        ("debounce", "array[null::bigint]"),
        ("max_wait", "array[null::bigint]"),
    ];
    for (name, value) in changed {
        let found = arguments.iter_mut().find(|(argument, _)| argument == name);
        found.unwrap().1 = value;
    }
    let keyed = changed
        .iter()
        .any(|(name, _)| ["keys", "throttle", "debounce", "max_wait"].contains(name));
    let arguments: Vec<&str> = arguments.iter().map(|(_, value)| *value).collect();
    let arguments = &arguments[..if keyed { 12 } else { 8 }];
    format!("select conductor.invoke_many({})", arguments.join(", "))
}

async fn run(test: &TestConductor, id: Uuid, changed: &[(&str, &str)]) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(call(changed)))
        .bind(id)
        .execute(test.pool())
        .await
        .map(drop)
}

#[conductor::test]
async fn invoke_many_refuses_what_invoke_refuses(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let year = "31557600000001";
    for (changed, words) in [
        (
            ("run_at", "array['-infinity'::timestamptz]"),
            "outside the years 1 to 9999",
        ),
        (
            ("run_at", "array['infinity'::timestamptz]"),
            "outside the years 1 to 9999",
        ),
        (
            ("run_at", "array['290000-01-01'::timestamptz]"),
            "outside the years 1 to 9999",
        ),
        (
            ("run_at", "array['0044-03-15 BC'::timestamptz]"),
            "outside the years 1 to 9999",
        ),
        (("delay", "array[-1::bigint]"), "a delay of -1 ms"),
        (
            ("delay", &format!("array[{year}::bigint]")),
            "longer than 1000 years",
        ),
        (("keys", "array['']"), "1 to 200 bytes"),
        (
            ("keys", "array[repeat('k', 201)]"),
            "1 to 200 bytes, not 201",
        ),
        (("throttle", "array[0::bigint]"), "a throttle of 0 ms"),
        (("debounce", "array[9223372036854775807]"), "a debounce of"),
        (
            ("max_wait", "array[1000::bigint]"),
            "max_wait bounds a debounce; give one with it",
        ),
        (("max_wait", "array[1::bigint, 2]"), "different lengths"),
        (("payloads", "array[null::text]"), "its payload is null"),
        (
            ("payloads", "array[to_json(repeat('x', 16777216))::text]"),
            "the limit is 16777216",
        ),
        (("ids", "array[null::uuid]"), "its id is null"),
        (("ids", "array[$1, $1]"), "different lengths"),
        (
            ("tasks", "array['poison-plain', 'poison-plain']"),
            "different lengths",
        ),
        (("priority", "null::integer[]"), "different lengths"),
        (("keys", "array['a', 'b']"), "different lengths"),
    ] {
        let error = run(&test, Uuid::now_v7(), &[changed]).await.unwrap_err();
        assert_eq!(
            sqlstate(&error).as_deref(),
            Some("CD002"),
            "{changed:?}: {error}"
        );
        assert!(error.to_string().contains(words), "{changed:?}: {error}");
    }
    for changed in [
        [
            ("throttle", "array[1000::bigint]"),
            ("debounce", "array[1000::bigint]"),
        ],
        [
            ("delay", "array[1000::bigint]"),
            ("debounce", "array[1000::bigint]"),
        ],
        [
            ("debounce", "array[1000::bigint]"),
            ("max_wait", "array[999::bigint]"),
        ],
        [
            ("keys", "array['max']"),
            ("max_wait", "array[1000::bigint]"),
        ],
    ] {
        let error = run(&test, Uuid::now_v7(), &changed).await.unwrap_err();
        assert_eq!(sqlstate(&error).as_deref(), Some("CD002"), "{error}");
    }
    assert_eq!(
        number(&test, "select count(*) from conductor.live_executions").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn an_id_that_is_there_is_the_same_call_again(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let kinds: [&[(&str, &str)]; 4] = [
        &[],
        &[("keys", "array['a key']")],
        &[
            ("keys", "array['a slot']"),
            ("throttle", "array[3600000::bigint]"),
        ],
        &[("keys", "array['quiet']"), ("debounce", "array[1::bigint]")],
    ];
    for kind in kinds {
        let id = Uuid::now_v7();
        run(&test, id, kind).await?;
        run(&test, id, kind).await?;
        test.drain().await?;
        assert_eq!(info(&test, id).await?.state, Status::Completed, "{kind:?}");
        // Ended; each way to send it again.
        for again in kinds {
            run(&test, id, again).await?;
        }
        let live = "select count(*) from conductor.live_executions";
        assert_eq!(number(&test, live).await, 0, "{kind:?}");
    }
    Ok(())
}

/// However it came to be: it ends, and so does what its process had beside it.
#[conductor::test]
async fn one_that_has_ended_before_can_end_again(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = put(&test, "poison-plain", "'1'").await?;
        sqlx::query(
            "insert into conductor.finished_executions (
                    id, created_at, finished_at, expires_at, queue_id, task_id, priority, claim, failures, crashes,
                    state, payload, output)
             select l.id, l.created_at, conductor.now(), conductor.now() + interval '1 day', l.queue_id, l.task_id, 0, 1, 0, 0,
                    'completed', l.payload, '1' from conductor.live_executions l where l.id = $1",
        )
        .bind(id)
        .execute(test.pool())
        .await?;
        ids.push(id);
    }
    let first = ids[0];
    sqlx::query("select conductor.cancel($1)")
        .bind(first)
        .execute(test.pool())
        .await?;
    let other = test.invoke::<PoisonPlain>(raw("7")).await?;
    test.drain().await?;
    assert_eq!(other.result().await?, 1);
    for id in ids {
        assert_eq!(info(&test, id).await?.state, Status::Completed);
    }
    assert_eq!(
        number(&test, "select count(*) from conductor.live_executions").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn times_out_of_all_bounds_are_shown(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let mut ids = Vec::new();
    for at in ["-infinity", "infinity", "4713-01-02 BC", "294276-12-31"] {
        let id = put(&test, "poison-plain", "'1'").await?;
        sqlx::query("update conductor.live_executions set run_at = $2::timestamptz, created_at = $2::timestamptz where id = $1")
            .bind(id)
            .bind(at)
            .execute(test.pool())
            .await?;
        ids.push(id);
    }
    assert_eq!(test.list(&Filter::default()).await?.len(), ids.len());
    for id in &ids {
        test.why(*id).await?;
        test.story(*id).await?;
    }
    for id in &ids {
        test.cancel(*id).await?;
    }
    run_sql(
        &test,
        "update conductor.finished_executions set finished_at = created_at, claimed_at = created_at",
    )
    .await?;
    assert_eq!(test.list(&Filter::default()).await?.len(), ids.len());
    for id in ids {
        test.story(id).await?;
    }
    Ok(())
}
