//! What Postgres could not read is refused where it arises, with its place.

use conductor::testing::TestConductor;
use conductor::{Error, Status};
use serde_json::json;

use super::{PoisonGives, PoisonParent, PoisonPlain, PoisonSteps, PoisonWhole, declared, raw};
use crate::support::{declare, info, number, sqlstate};

const HALF: &str = r#"{"tenant":"a","note":"\ud83d"}"#;

fn refused<T>(result: Result<T, Error>) -> String {
    match result {
        Err(error @ (Error::Payload { .. } | Error::Event { .. })) => error.to_string(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[conductor::test]
async fn half_a_surrogate_pair_is_refused_at_every_entry(
    test: TestConductor,
) -> anyhow::Result<()> {
    declared(&test).await?;
    declare(&test, "poison-elsewhere").await?;
    let batch = [r#"{"tenant":"b"}"#, HALF];
    for said in [
        refused(test.invoke::<PoisonPlain>(raw(HALF)).await),
        refused(
            test.invoke::<PoisonWhole>(raw(HALF))
                .delay(std::time::Duration::from_secs(1))
                .await,
        ),
        refused(test.invoke_batch::<PoisonPlain>([raw(HALF)]).await),
        refused(test.invoke_json("poison-keyed", HALF).await),
        refused(test.invoke_json("poison-elsewhere", HALF).await),
        refused(test.invoke_batch_json("poison-keyed", batch).await),
        refused(test.emit_json("poison-event", HALF).await),
        refused(
            test.schedule_json("poison-plain", "hourly", "0 * * * *", HALF, |said| said)
                .await,
        ),
    ] {
        assert!(said.contains(r"\ud83d, half of a surrogate pair"), "{said}");
        assert!(said.contains("byte 22 of the JSON"), "{said}");
    }
    let made = "select (select count(*) from conductor.live_executions)
                     + (select count(*) from conductor.event_inbox) + (select count(*) from conductor.events)
                     + (select count(*) from conductor.schedules)";
    assert_eq!(number(&test, made).await, 0);
    Ok(())
}

#[conductor::test]
async fn numbers_that_postgres_cannot_hold_are_refused(test: TestConductor) -> anyhow::Result<()> {
    let digits = "7".repeat(1_000_000);
    for json in [&digits, "[1e400000]", r#"{"a":-1.5e-99999}"#] {
        let said = refused(test.invoke::<PoisonPlain>(raw(json)).await);
        assert!(
            said.contains("a number has more than 8000 digits"),
            "{said}"
        );
        let said = refused(test.emit_json("poison-event", json).await);
        assert!(
            said.contains("a number has more than 8000 digits"),
            "{said}"
        );
    }
    Ok(())
}

#[conductor::test]
async fn outputs_and_step_values_are_refused_where_they_arise(
    test: TestConductor,
) -> anyhow::Result<()> {
    let json = || HALF.to_owned();
    let gives = test
        .invoke::<PoisonGives>(PoisonGives { json: json() })
        .await?;
    let steps = test
        .invoke::<PoisonSteps>(PoisonSteps { json: json() })
        .await?;
    let parent = test
        .invoke::<PoisonParent>(PoisonParent { json: json() })
        .await?;
    let other = test.invoke::<PoisonPlain>(raw("7")).await?;
    test.drain().await?;
    assert_eq!(other.result().await?, 1);
    for id in [gives.id(), steps.id(), parent.id()] {
        let info = info(&test, id).await?;
        let error = info.error.unwrap_or_default();
        assert_eq!(info.state, Status::Failed, "{error}");
        assert!(error.contains("half of a surrogate pair"), "{error}");
    }
    // The parent has its child's failure, and not the value.
    test.story(parent.id()).await?;
    assert!(test.retry(parent.id()).await?.is_some());
    Ok(())
}

#[conductor::test]
async fn sql_refuses_what_it_could_not_read(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let calls = [
        "select conductor.invoke_many(array[conductor.uuid7(), conductor.uuid7()], array['poison-plain', 'poison-keyed'],
                array['1', $1], array[null, null]::timestamptz[], array[null, null]::bigint[],
                array[null, null]::integer[], false, false)",
        "select conductor.invoke_many(array[conductor.uuid7()], array['poison-keyed'], array[$1],
                array[null]::timestamptz[], array[null]::bigint[], array[null]::integer[], false, false,
                array['key'], array[null]::bigint[], array[null]::bigint[])",
        "select conductor.emit_many(array[conductor.uuid7()], array['poison-event'], array[$1], true)",
        "select conductor.emit_many(array[conductor.uuid7()], array['poison-event'], array[$1], false)",
        "select conductor.schedule('poison-plain', 'hourly', '0 * * * *', $1::json)",
        "select conductor.trigger_schedule('poison-plain', 'hourly', $1::json)",
    ];
    test.schedule_json("poison-plain", "hourly", "0 * * * *", "1", |said| said)
        .await?;
    let nul = json!({"note": "a\0b"}).to_string();
    for call in calls {
        for json in [HALF, &nul, r#"{"\udc00":1}"#] {
            let error = sqlx::query(call)
                .bind(json)
                .execute(test.pool())
                .await
                .unwrap_err();
            assert_eq!(
                sqlstate(&error).as_deref(),
                Some("CD002"),
                "{call}: {error}"
            );
            let said = error.to_string();
            assert!(said.contains("Postgres cannot read"), "{said}");
            assert!(
                said.contains("surrogate") || said.contains("u0000"),
                "{said}"
            );
        }
    }
    let made = "select (select count(*) from conductor.live_executions)
                     + (select count(*) from conductor.event_inbox) + (select count(*) from conductor.events)";
    assert_eq!(number(&test, made).await, 0);
    Ok(())
}
