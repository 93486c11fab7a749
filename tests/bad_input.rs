//! What a handler may get wrong in its durable calls: each mistake fails its own execution, with words
//! that say what to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, MAX_JSON_BYTES, MAX_JSON_DEPTH, Status};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::support::{info, left, number, run_sql};

/// The error of an execution that must fail at its first failure.
async fn refused<T: Task>(test: &TestConductor, run: &Execution<T>) -> anyhow::Result<String> {
    test.drain().await?;
    let info = info(test, run.id()).await?;
    assert_eq!(
        (info.state, info.failures),
        (Status::Failed, 1),
        "{:?}",
        info.error
    );
    Ok(info.error.unwrap())
}

#[task(name = "bad.child", retry(max_attempts = 1))]
async fn bad_child(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

const CALLS: [&str; 6] = [
    "step",
    "transaction",
    "sleep",
    "sleep_until",
    "invoke",
    "invoke_all",
];

fn bad_key(name: &str) -> String {
    match name {
        "empty" => String::new(),
        "long" => "é".repeat(251),
        "enormous" => "x".repeat(50_000_000),
        "nul" => "a\0b".to_owned(),
        "part" => "a\u{1f}b".to_owned(),
        _ => "\n".to_owned(),
    }
}

#[task(name = "bad.key")]
async fn bad_key_of(ctx: &TaskContext, call: String, key: String) -> anyhow::Result<()> {
    let key = bad_key(&key);
    match call.as_str() {
        "step" => ctx.step(key, || async { anyhow::Ok(()) }).await?,
        "transaction" => ctx.transaction(key, async |_tx| anyhow::Ok(())).await?,
        "sleep" => ctx.sleep(key, Duration::ZERO).await?,
        "sleep_until" => ctx.sleep_until(key, Utc::now()).await?,
        "invoke" => drop(ctx.invoke::<BadChild>(key, BadChild { n: 1 }).await?),
        _ => drop(ctx.invoke_all::<BadChild>(key, [BadChild { n: 1 }]).await?),
    }
    Ok(())
}

#[conductor::test]
async fn a_key_that_cannot_be_is_refused_by_every_call(test: TestConductor) -> anyhow::Result<()> {
    let keys = [
        ("empty", "it is empty"),
        ("long", "it has 502 bytes; 500 are allowed"),
        ("enormous", "it has 50000000 bytes"),
        ("nul", "a control character"),
        ("part", "a control character"),
        ("line break", "a control character"),
    ];
    for call in CALLS {
        for (key, words) in keys {
            let run = test
                .invoke::<BadKeyOf>(BadKeyOf {
                    call: call.into(),
                    key: key.into(),
                })
                .await?;
            let error = refused(&test, &run).await?;
            assert!(error.contains(words), "{call} {key}: {error}");
            assert!(error.len() < 300, "{call} {key}: {} bytes", error.len());
        }
    }
    Ok(())
}

/// Refuses to be written.
struct Shy;

impl Serialize for Shy {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("I would rather not"))
    }
}

impl<'de> Deserialize<'de> for Shy {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

fn deep() -> Value {
    (0..=MAX_JSON_DEPTH).fold(Value::Null, |inner, _| json!([inner]))
}

fn pairs() -> BTreeMap<(u8, u8), u8> {
    BTreeMap::from([((1, 2), 3)])
}

async fn recorded<T: Serialize + DeserializeOwned + Send>(
    ctx: &TaskContext,
    transaction: bool,
    value: T,
) -> anyhow::Result<()> {
    if transaction {
        let body = async |tx: &mut conductor::Tx| {
            sqlx::query("insert into bad_books values (1)")
                .execute(tx)
                .await?;
            anyhow::Ok(value)
        };
        ctx.transaction("the value", body).await.map(drop)
    } else {
        ctx.step("the value", || async { anyhow::Ok(value) })
            .await
            .map(drop)
    }
}

#[task(name = "bad.value", retry(max_attempts = 3))]
async fn bad_value(
    ctx: &TaskContext,
    kind: String,
    transaction: bool,
    handles: bool,
) -> anyhow::Result<String> {
    let result = match kind.as_str() {
        "nul" => recorded(ctx, transaction, "a\0b".to_owned()).await,
        "large" => recorded(ctx, transaction, "x".repeat(MAX_JSON_BYTES)).await,
        "deep" => recorded(ctx, transaction, deep()).await,
        "pairs" => recorded(ctx, transaction, pairs()).await,
        _ => recorded(ctx, transaction, Shy).await,
    };
    match result {
        Err(error) if handles => Ok(error.to_string()),
        other => other.map(|()| String::new()),
    }
}

#[conductor::test]
async fn a_value_that_cannot_be_stored_is_refused(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table bad_books (n integer)").await?;
    let values = [
        ("nul", "U+0000"),
        ("large", "the limit is 16777216"),
        ("deep", "121 levels deep"),
        ("pairs", "key must be a string"),
        ("shy", "I would rather not"),
    ];
    for (kind, words) in values {
        for transaction in [false, true] {
            let value = |handles| BadValue {
                kind: kind.into(),
                transaction,
                handles,
            };
            let run = test.invoke::<BadValue>(value(false)).await?;
            let error = refused(&test, &run).await?;
            assert!(error.contains("step \"the value\""), "{kind}: {error}");
            assert!(error.contains(words), "{kind}: {error}");

            let run = test.invoke::<BadValue>(value(true)).await?;
            test.drain().await?;
            assert_eq!(run.result().await?, error);
        }
    }
    assert_eq!(number(&test, "select count(*) from bad_books").await, 0);
    assert_eq!(
        number(&test, "select count(*) from conductor.steps").await,
        0
    );
    Ok(())
}

#[task(name = "bad.any")]
async fn bad_any(_ctx: &TaskContext, payload: Value) -> anyhow::Result<Value> {
    Ok(payload)
}

#[task(name = "bad.payload", retry(max_attempts = 1))]
async fn bad_payload(ctx: &TaskContext, all: bool) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    for (n, bad) in [json!("a\0b"), deep(), json!("x".repeat(MAX_JSON_BYTES))]
        .into_iter()
        .enumerate()
    {
        let key = format!("child {n}");
        let ended = if all {
            ctx.invoke_all::<BadAny>(key, [json!("fine"), bad])
                .await
                .map(drop)
        } else {
            ctx.invoke::<BadAny>(key, bad).await.map(drop)
        };
        match ended {
            Err(Error::Payload { task, reason }) if task == BadAny::NAME => texts.push(reason),
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(texts)
}

#[conductor::test]
async fn a_payload_that_cannot_be_stored_makes_no_child(test: TestConductor) -> anyhow::Result<()> {
    for all in [false, true] {
        let run = test.invoke::<BadPayload>(BadPayload { all }).await?;
        test.drain().await?;
        let texts = run.result().await?;
        let words = ["U+0000", "121 levels deep", "the limit is"];
        for (text, words) in texts.iter().zip(words) {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(texts.len(), 3);
    }
    assert_eq!(
        number(&test, "select count(*) from conductor.executions").await,
        2
    );
    Ok(())
}

/// `bad.child` as a program knows it that was built before its payload changed.
struct OlderChild;

impl Task for OlderChild {
    type Payload = Value;
    type Output = String;
    const NAME: &'static str = BadChild::NAME;
}

#[task(name = "bad.older", retry(max_attempts = 1))]
async fn bad_older(ctx: &TaskContext, payload: Value) -> anyhow::Result<String> {
    match ctx.invoke::<OlderChild>("child", payload).await {
        Err(Error::Failed { error, .. }) => Ok(format!("failed: {error}")),
        other => Ok(other?),
    }
}

#[conductor::test]
async fn a_child_that_cannot_read_its_payload_waits_with_words(
    test: TestConductor,
) -> anyhow::Result<()> {
    let cases = [
        (
            json!({ "n": "text" }),
            "bad.child",
            "n: invalid type: string",
        ),
        (json!({}), "bad.child", "missing field `n`"),
        // The child is fine, and its parent expects something else.
        (
            json!({ "n": 1 }),
            "bad.older",
            "invalid type: integer `1`, expected a string",
        ),
    ];
    for (payload, task, words) in cases {
        let run = test.invoke::<BadOlder>(payload).await?;
        test.drain().await?;
        let newest = conductor::Filter {
            task: Some(task.to_owned()),
            limit: 1,
            ..Default::default()
        };
        let waits = &test.list(&newest).await?[0];
        let text = left(&test, waits.id).await?;
        assert!(text.contains(words), "{text}");
        test.cancel(run.id()).await?;
    }
    Ok(())
}

fn instant(year: i32) -> Option<DateTime<Utc>> {
    Utc.with_ymd_and_hms(year, 12, 31, 23, 59, 59).single()
}

#[task(name = "bad.until", retry(max_attempts = 1))]
async fn bad_until(ctx: &TaskContext, year: i32) -> anyhow::Result<()> {
    Ok(ctx.sleep_until("then", instant(year).unwrap()).await?)
}

#[conductor::test]
async fn a_sleep_until_a_time_out_of_reach_is_refused(test: TestConductor) -> anyhow::Result<()> {
    for year in [-1, 0, 10_000, -262_143, 262_142] {
        let run = test.invoke::<BadUntil>(BadUntil { year }).await?;
        let error = refused(&test, &run).await?;
        assert!(
            error.contains("outside the years 1 to 9999"),
            "{year}: {error}"
        );
    }
    for year in [1, 1969] {
        let past = test.invoke::<BadUntil>(BadUntil { year }).await?;
        test.drain().await?;
        past.result().await?;
    }
    let far = test.invoke::<BadUntil>(BadUntil { year: 9999 }).await?;
    test.drain().await?;
    assert_eq!(far.status().await?, Status::Suspended);
    assert_eq!(info(&test, far.id()).await?.run_at, instant(9999));
    Ok(())
}

#[task(name = "bad.timeout", retry(max_attempts = 1))]
async fn bad_timeout(ctx: &TaskContext, millis: u64, all: bool) -> anyhow::Result<i64> {
    let timeout = match millis {
        u64::MAX => Duration::MAX,
        millis => Duration::from_millis(millis),
    };
    let child = || BadChild { n: 7 };
    if all {
        let all = ctx.invoke_all::<BadChild>("all", [child(), child()]);
        return Ok(all.timeout(timeout).await?.iter().sum());
    }
    Ok(ctx
        .invoke::<BadChild>("child", child())
        .timeout(timeout)
        .await?)
}

#[conductor::test]
async fn the_shortest_and_the_longest_timeouts_of_a_child(
    test: TestConductor,
) -> anyhow::Result<()> {
    for all in [false, true] {
        let none = test
            .invoke::<BadTimeout>(BadTimeout { millis: 0, all })
            .await?;
        let error = refused(&test, &none).await?;
        assert!(error.contains("did not end in time"), "{error}");
        let endless = test
            .invoke::<BadTimeout>(BadTimeout {
                millis: u64::MAX,
                all,
            })
            .await?;
        let error = refused(&test, &endless).await?;
        assert!(error.contains("longer than 1000 years"), "{error}");
    }
    // Those without time were cancelled, those without end never made.
    let states: Vec<String> =
        sqlx::query_scalar("select state from conductor.executions where task = 'bad.child'")
            .fetch_all(test.pool())
            .await?;
    assert_eq!(states, ["cancelled"; 3]);

    let years = Duration::from_secs(999 * 365 * 24 * 60 * 60);
    let millis = years.as_millis().try_into()?;
    let run = test
        .invoke::<BadTimeout>(BadTimeout { millis, all: true })
        .await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 14);
    Ok(())
}

#[task(name = "bad.quick-step", retry(max_attempts = 1))]
async fn bad_quick_step(ctx: &TaskContext) -> anyhow::Result<String> {
    let at_once = ctx.step("at once", || async { anyhow::Ok(1) });
    assert_eq!(at_once.timeout(Duration::ZERO).await?, 1);
    let endless = ctx.step("endless", || async { anyhow::Ok(2) });
    assert_eq!(endless.timeout(Duration::MAX).await?, 2);
    let never = ctx.step("never", std::future::pending::<anyhow::Result<()>>);
    let error = never.timeout(Duration::ZERO).await.unwrap_err();
    Ok(error.to_string())
}

#[conductor::test]
async fn the_shortest_and_the_longest_timeouts_of_a_step(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<BadQuickStep>(()).await?;
    test.drain().await?;
    assert!(
        run.result()
            .await?
            .starts_with("step \"never\" timed out after 0s")
    );
    Ok(())
}

static CROWD_RUNS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "bad.crowd", retry(max_attempts = 1))]
async fn bad_crowd(ctx: &TaskContext, children: i64) -> anyhow::Result<i64> {
    CROWD_RUNS.fetch_add(1, SeqCst);
    let payloads = (0..children).map(|n| BadChild { n });
    let all = ctx.invoke_all::<BadChild>("crowd", payloads).await?;
    Ok(all.iter().sum())
}

#[conductor::test]
async fn ten_thousand_children_are_an_ordinary_number(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<BadCrowd>(BadCrowd { children: 10_000 })
        .await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 10_000 * 9_999 / 2);
    let runs = CROWD_RUNS.load(SeqCst);
    assert!(runs <= 3, "{runs} runs");
    Ok(())
}
