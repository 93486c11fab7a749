//! Rolling deploys: builds side by side, whose arguments differ, read what the other one has stored. Each
//! pair of tasks is one task as two builds have it.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Execution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{left, number, soon};

#[task(name = "rolling-first", retry(max_attempts = 1))]
async fn rolling_first(_ctx: &TaskContext, item: String) -> anyhow::Result<String> {
    Ok(item)
}

#[task(name = "rolling-optional", retry(max_attempts = 1))]
async fn rolling_optional(
    _ctx: &TaskContext,
    item: String,
    fragile: Option<bool>,
) -> anyhow::Result<String> {
    Ok(format!("{item} {fragile:?}"))
}

#[task(name = "rolling-required", retry(max_attempts = 1))]
async fn rolling_required(_ctx: &TaskContext, item: String, grams: u32) -> anyhow::Result<String> {
    Ok(format!("{item} {grams}"))
}

#[task(name = "rolling-renamed", retry(max_attempts = 1))]
async fn rolling_renamed(
    _ctx: &TaskContext,
    #[serde(alias = "item")] article: String,
) -> anyhow::Result<String> {
    Ok(article)
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum Size {
    Small,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
enum MoreSizes {
    Small,
    Large,
}

#[task(name = "rolling-sizes", retry(max_attempts = 1))]
async fn rolling_sizes(_ctx: &TaskContext, size: Size) -> anyhow::Result<String> {
    Ok(format!("{size:?}"))
}

#[task(name = "rolling-more-sizes", retry(max_attempts = 1))]
async fn rolling_more_sizes(_ctx: &TaskContext, size: MoreSizes) -> anyhow::Result<String> {
    Ok(format!("{size:?}"))
}

#[task(
    name = "rolling-batch",
    batch(max_size = 10, max_wait = "1ms"),
    retry(max_attempts = 1)
)]
async fn rolling_batch(_ctx: &BatchContext, items: Vec<Size>) -> anyhow::Result<Vec<String>> {
    Ok(items.iter().map(|size| format!("{size:?}")).collect())
}

/// Stored by the build whose arguments these are, for `T` as this build has it.
async fn written<T: Task>(
    test: &TestConductor,
    arguments: impl Serialize,
) -> anyhow::Result<Execution<T>> {
    let id = sqlx::query_scalar("select conductor.invoke($1, $2::text::jsonb)")
        .bind(T::NAME)
        .bind(serde_json::to_string(&arguments)?)
        .fetch_one(test.pool())
        .await?;
    Ok(test.execution(id))
}

/// A test that fails is not to wait for ever.
async fn output<T: Task>(run: &Execution<T>) -> anyhow::Result<T::Output> {
    Ok(soon("its end", run.result()).await?)
}

fn first(item: &str) -> RollingFirst {
    RollingFirst { item: item.into() }
}

#[conductor::test]
async fn an_optional_argument_is_added_and_removed(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    let newer = RollingOptional {
        item: "cup".into(),
        fragile: Some(true),
    };
    let by_older = written::<RollingFirst>(&test, newer).await?;
    let by_newer = written::<RollingOptional>(&test, first("jug")).await?;
    test.drain().await?;
    assert_eq!(output(&by_older).await?, "cup");
    assert_eq!(output(&by_newer).await?, "jug None");
    Ok(())
}

#[conductor::test]
async fn a_required_argument_is_added_and_removed(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    let newer = RollingRequired {
        item: "cup".into(),
        grams: 3,
    };
    let by_older = written::<RollingFirst>(&test, newer).await?;
    let by_newer = written::<RollingRequired>(&test, first("jug")).await?;
    test.drain().await?;
    assert_eq!(output(&by_older).await?, "cup");
    let text = left(&test, by_newer.id()).await?;
    assert!(text.contains("missing field `grams`"), "{text}");
    Ok(())
}

#[conductor::test]
async fn an_argument_is_renamed(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    let newer = RollingRenamed {
        article: "cup".into(),
    };
    let by_older = written::<RollingFirst>(&test, newer).await?;
    let by_newer = written::<RollingRenamed>(&test, first("jug")).await?;
    // Who still invokes by the old name is understood too.
    let invoked = test
        .invoke_json("rolling-renamed", r#"{"item": "pot"}"#)
        .await?;
    test.drain().await?;
    let text = left(&test, by_older.id()).await?;
    assert!(text.contains("missing field `item`"), "{text}");
    assert_eq!(output(&by_newer).await?, "jug");
    let invoked = test.execution::<RollingRenamed>(invoked);
    assert_eq!(output(&invoked).await?, "pot");
    Ok(())
}

#[conductor::test]
async fn a_variant_is_added(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    let newer = |size| RollingMoreSizes { size };
    let known = written::<RollingSizes>(&test, newer(MoreSizes::Small)).await?;
    let unknown = written::<RollingSizes>(&test, newer(MoreSizes::Large)).await?;
    let older = RollingSizes { size: Size::Small };
    let by_newer = written::<RollingMoreSizes>(&test, older).await?;
    let batch = [
        written::<RollingBatch>(&test, MoreSizes::Small).await?,
        written::<RollingBatch>(&test, MoreSizes::Large).await?,
    ];
    test.drain().await?;
    assert_eq!(output(&known).await?, "Small");
    assert_eq!(output(&by_newer).await?, "Small");
    assert_eq!(output(&batch[0]).await?, "Small");
    for id in [unknown.id(), batch[1].id()] {
        let text = left(&test, id).await?;
        assert!(text.contains("unknown variant `Large`"), "{text}");
    }
    assert!(left(&test, unknown.id()).await?.contains("payload: size: "));
    Ok(())
}

#[conductor::test]
async fn who_invokes_by_json_learns_of_a_wrong_name(test: TestConductor) -> anyhow::Result<()> {
    for (payload, words) in [
        (
            r#"{"item": "cup", "fragile": true}"#,
            "unknown field `fragile`",
        ),
        (
            r#"{"itme": "cup"}"#,
            "unknown field `itme`; did you mean `item`?",
        ),
    ] {
        let calls = [
            test.invoke_json("rolling-first", payload).await.map(drop),
            test.invoke_batch_json("rolling-first", [payload])
                .await
                .map(drop),
        ];
        for called in calls {
            let Err(Error::Payload { reason, .. }) = called else {
                panic!("{called:?}");
            };
            assert!(reason.starts_with(words), "{reason}");
        }
    }
    let none = number(&test, "select count(*) from conductor.live_executions");
    assert_eq!(none.await, 0);
    Ok(())
}
