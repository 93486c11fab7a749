//! G4: what Postgres or serde refuses fails one execution, and disturbs no other.

use std::collections::BTreeMap;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, MAX_JSON_BYTES, MAX_JSON_DEPTH, Status};
use serde_json::Value;

use crate::support::{count, eventually, info, left, soon, start_with};

#[task(name = "g4-says")]
async fn g4_says(_ctx: &TaskContext, text: String) -> anyhow::Result<String> {
    Ok(text)
}

#[task(name = "g4-pairs")]
async fn g4_pairs(_ctx: &TaskContext) -> anyhow::Result<BTreeMap<(u8, u8), u8>> {
    Ok(BTreeMap::from([((1, 2), 3)]))
}

#[task(name = "g4-huge")]
async fn g4_huge(_ctx: &TaskContext) -> anyhow::Result<String> {
    Ok("x".repeat(MAX_JSON_BYTES))
}

#[task(name = "g4-nul")]
async fn g4_nul(_ctx: &TaskContext) -> anyhow::Result<String> {
    Ok("a\0b".to_owned())
}

#[task(name = "g4-errs", retry(max_attempts = 3))]
async fn g4_errs(_ctx: &TaskContext, text: String) -> anyhow::Result<()> {
    anyhow::bail!(text)
}

#[task(name = "g4-any")]
async fn g4_any(_ctx: &TaskContext, payload: Value) -> anyhow::Result<Value> {
    Ok(payload)
}

#[task(name = "g4-typed")]
async fn g4_typed(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

fn says(text: impl Into<String>) -> G4Says {
    G4Says { text: text.into() }
}

async fn others(test: &TestConductor) -> anyhow::Result<()> {
    test.invoke_batch::<G4Says>((0..200).map(|n| says(format!("other {n}"))))
        .await?;
    Ok(())
}

async fn others_completed(test: &TestConductor) -> anyhow::Result<i64> {
    count(
        test,
        "state = 'completed' and payload->>'text' like 'other %' and claim = 1",
    )
    .await
}

/// The text with which it failed, at the first attempt.
async fn refusal<T: Task>(run: &Execution<T>, test: &TestConductor) -> anyhow::Result<String> {
    let info = info(test, run.id()).await?;
    assert_eq!((info.state, info.failures), (Status::Failed, 1));
    Ok(info.error.unwrap())
}

#[conductor::test]
async fn outputs_that_cannot_be_stored_fail_alone(test: TestConductor) -> anyhow::Result<()> {
    let nul = test.invoke::<G4Nul>(()).await?;
    let pairs = test.invoke::<G4Pairs>(()).await?;
    let huge = test.invoke::<G4Huge>(()).await?;
    others(&test).await?;
    test.drain().await?;
    assert_eq!(others_completed(&test).await?, 200);
    for (text, words) in [
        (refusal(&nul, &test).await?, "U+0000"),
        (refusal(&pairs, &test).await?, "key must be a string"),
        (refusal(&huge, &test).await?, "the limit is 16777216"),
    ] {
        assert!(text.contains("output of task \"g4-"), "{text}");
        assert!(text.contains(words), "{text}");
    }
    Ok(())
}

#[conductor::test]
async fn an_output_that_only_the_database_refuses_fails_alone(
    test: TestConductor,
) -> anyhow::Result<()> {
    sqlx::query(
        "alter table conductor.finished_executions
           add constraint no_such_output check (output::text is distinct from '\"refused\"')",
    )
    .execute(test.pool())
    .await?;
    let first = test.invoke::<G4Says>(says("refused")).await?;
    others(&test).await?;
    let last = test.invoke::<G4Says>(says("refused")).await?;
    test.drain().await?;
    assert_eq!(others_completed(&test).await?, 200);
    for run in [first, last] {
        let text = refusal(&run, &test).await?;
        assert!(text.contains("the output was not stored"), "{text}");
        assert!(text.contains("no_such_output"), "{text}");
    }
    Ok(())
}

#[conductor::test]
async fn an_error_text_that_only_the_database_refuses_fails_alone(
    test: TestConductor,
) -> anyhow::Result<()> {
    sqlx::query(
        "alter table conductor.failures add constraint no_such_text check (error <> 'refused')",
    )
    .execute(test.pool())
    .await?;
    let run = test
        .invoke::<G4Errs>(G4Errs {
            text: "refused".into(),
        })
        .await?;
    others(&test).await?;
    test.drain().await?;
    assert_eq!(others_completed(&test).await?, 200);
    let text = refusal(&run, &test).await?;
    assert!(text.contains("no_such_text"), "{text}");
    Ok(())
}

#[conductor::test]
async fn an_outcome_that_can_never_be_written_stops_no_other(
    test: TestConductor,
) -> anyhow::Result<()> {
    sqlx::query(
        "alter table conductor.finished_executions
           add constraint never check (payload->>'text' <> 'never')",
    )
    .execute(test.pool())
    .await?;
    let worker = start_with(&test, 10, ()).await?;
    let never = test.invoke::<G4Says>(says("never")).await?;
    let other = test.invoke::<G4Says>(says("other")).await?;
    assert_eq!(soon("the other", other.result()).await?, "other");
    others(&test).await?;
    soon("the others", async {
        while others_completed(&test).await.unwrap() < 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    // Once the database takes it, it is written.
    sqlx::query("alter table conductor.finished_executions drop constraint never")
        .execute(test.pool())
        .await?;
    eventually("its end", || async {
        never.status().await.unwrap().is_final()
    })
    .await;
    worker.stop().await?;
    Ok(())
}

fn reason(refused: Result<impl Sized, Error>) -> String {
    match refused {
        Err(error @ Error::Payload { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[conductor::test]
async fn payloads_that_cannot_be_stored_are_refused_by_invoke(
    test: TestConductor,
) -> anyhow::Result<()> {
    let nul = reason(test.invoke::<G4Says>(says("a\0b")).await);
    assert!(nul.contains("g4-says") && nul.contains("U+0000"), "{nul}");

    let huge = reason(
        test.invoke::<G4Says>(says("x".repeat(MAX_JSON_BYTES)))
            .await,
    );
    assert!(huge.contains("the limit is 16777216"), "{huge}");

    let nested = |levels| (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    let deep = reason(test.invoke::<G4Any>(nested(MAX_JSON_DEPTH + 1)).await);
    assert!(deep.contains("121 levels deep"), "{deep}");

    // What is allowed comes back as it was.
    let deepest = test.invoke::<G4Any>(nested(MAX_JSON_DEPTH)).await?;
    test.drain().await?;
    assert_eq!(deepest.result().await?, nested(MAX_JSON_DEPTH));
    assert_eq!(count(&test, "true").await?, 1);
    Ok(())
}

#[conductor::test]
async fn one_refused_payload_of_a_batch_makes_none(test: TestConductor) -> anyhow::Result<()> {
    let batch = ["fine", "a\0b", "fine"].map(says);
    reason(test.invoke_batch::<G4Says>(batch).await);
    assert_eq!(count(&test, "true").await?, 0);
    Ok(())
}

#[conductor::test]
async fn a_payload_that_the_handler_cannot_read_waits_with_serdes_words(
    test: TestConductor,
) -> anyhow::Result<()> {
    let fine = test.invoke::<G4Typed>(G4Typed { n: 7 }).await?;
    let mut wrong = Vec::new();
    for (payload, words) in [
        (
            r#"{"n":"text"}"#,
            "invalid type: string \"text\", expected i64",
        ),
        (r#"{}"#, "missing field `n`"),
        ("null", "invalid type: null"),
        (
            r#"{"n":1.5}"#,
            "invalid type: floating point `1.5`, expected i64",
        ),
    ] {
        let id: uuid::Uuid =
            sqlx::query_scalar("select conductor.invoke('g4-typed', $1::text::jsonb)")
                .bind(payload)
                .fetch_one(test.pool())
                .await?;
        wrong.push((test.execution::<G4Typed>(id), words));
    }
    test.drain().await?;
    assert_eq!(fine.result().await?, 7);
    for (run, words) in wrong {
        let text = left(&test, run.id()).await?;
        assert!(text.contains("cannot read its payload"), "{text}");
        assert!(text.contains(words), "{text}");
    }
    Ok(())
}
