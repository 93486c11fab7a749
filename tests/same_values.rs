//! The first run sees what a replay sees (G21): a value goes on as it is read from its record.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{info, number};

const HOUR: Duration = Duration::from_secs(3600);

/// Read back as the first that fits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Amount {
    Cents { cents: i64 },
    Noted { cents: i64, note: Option<String> },
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[allow(dead_code)]
struct Odd {
    rate: Option<f64>,
    deep: Option<Option<i32>>,
    unit: Option<()>,
    small: f32,
    #[serde(skip)]
    cached: i64,
    #[serde(skip_serializing, default)]
    secret: String,
    amount: Amount,
    by_id: HashMap<u32, bool>,
}

fn odd() -> Odd {
    Odd {
        rate: Some(f64::INFINITY),
        deep: Some(None),
        unit: Some(()),
        small: 0.1,
        cached: 7,
        secret: "key".to_owned(),
        amount: Amount::Noted {
            cents: 5,
            note: Some("rent".to_owned()),
        },
        by_id: HashMap::from([(7, true)]),
    }
}

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[task(name = "same.sees")]
async fn sees(ctx: &TaskContext) -> anyhow::Result<()> {
    let step = ctx.step("step", async || anyhow::Ok(odd())).await?;
    let once = RetryPolicy::attempts(1);
    let tried = ctx.retry_step("tried", once, async || anyhow::Ok(odd()));
    let tried = tried.await?;
    let body = async |_: &mut conductor::Tx| anyhow::Ok(odd());
    let transaction = ctx.transaction("transaction", body).await?;
    let nan = ctx.step("nan", async || anyhow::Ok(Some(f64::NAN))).await?;
    let all = format!("{step:?} {tried:?} {transaction:?} {nan:?}");
    SEEN.lock().unwrap().push(all);
    ctx.sleep("an hour", HOUR).await?;
    Ok(())
}

#[conductor::test]
async fn a_replay_sees_what_the_first_run_saw(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<Sees>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    run.result().await?;
    let seen = SEEN.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].contains("rate: None"), "{}", seen[0]);
    Ok(())
}

/// No build could read what is written of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[allow(dead_code)]
struct OneSided {
    #[serde(skip_serializing)]
    card: String,
    cents: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Order {
    method: OneSided,
}

fn order() -> Order {
    let card = "4111".to_owned();
    Order {
        method: OneSided { card, cents: 5 },
    }
}

#[task(name = "same.gives", retry(max_attempts = 3))]
async fn gives(ctx: &TaskContext, transaction: bool) -> anyhow::Result<()> {
    if transaction {
        let body = async |_: &mut conductor::Tx| anyhow::Ok(order());
        ctx.transaction("order", body).await?;
    } else {
        ctx.step("order", async || anyhow::Ok(order())).await?;
    }
    Ok(())
}

#[conductor::test]
async fn what_cannot_be_read_again_is_refused_with_its_path(
    test: TestConductor,
) -> anyhow::Result<()> {
    for transaction in [false, true] {
        let run = test.invoke::<Gives>(Gives { transaction }).await?;
        test.drain().await?;
        let info = info(&test, run.id()).await?;
        assert_eq!((info.state, info.failures), (Status::Failed, 1));
        let text = info.error.unwrap_or_default();
        assert!(text.contains("method: missing field `card`"), "{text}");
    }
    Ok(())
}

/// What its own JSON cannot be made into, one sort after the other.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct Broken {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rates: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    one_sided: Option<OneSided>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pick: Option<Pick>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pairs: Option<HashMap<(u8, u8), bool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    units: Option<Vec<Unit>>,
}

/// None reads what the other writes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Pick {
    #[serde(skip_deserializing)]
    Old(i64),
    New(String),
}

/// Read as something else than it is written.
#[derive(Debug, Clone, JsonSchema)]
struct Unit;

impl Serialize for Unit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("unit")
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer).map(|_| Self)
    }
}

/// Each with the words that name its place; what stands before them is where the value stands.
fn broken() -> Vec<(Broken, &'static str)> {
    let none = Broken::default();
    let rates = |rate| Broken {
        rates: Some(vec![1.0, rate]),
        ..Broken::default()
    };
    let one_sided = Some(order().method);
    let pairs = Some(HashMap::from([((1, 2), true)]));
    vec![
        (rates(f64::NAN), "rates[1]: invalid type: null"),
        (rates(f64::INFINITY), "rates[1]: invalid type: null"),
        (rates(f64::NEG_INFINITY), "rates[1]: invalid type: null"),
        (
            Broken {
                one_sided,
                ..none.clone()
            },
            "one_sided: missing field `card`",
        ),
        (
            Broken {
                pick: Some(Pick::Old(1)),
                ..none.clone()
            },
            "pick: data did not match any variant of untagged enum Pick",
        ),
        (
            Broken {
                pairs,
                ..none.clone()
            },
            "pairs: key must be a string",
        ),
        (
            Broken {
                units: Some(vec![Unit]),
                ..none
            },
            "units[0]: invalid type: string \"unit\", expected u8",
        ),
    ]
}

#[task(name = "same.takes", retry(max_attempts = 1))]
async fn takes(_ctx: &TaskContext, broken: Broken) -> anyhow::Result<()> {
    let _ = broken;
    Ok(())
}

#[event(name = "same.happened")]
struct Happened {
    broken: Broken,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Given {
    broken: Broken,
}

/// Gives the broken value of this number in one of the ways to store it.
#[task(name = "same.stores", retry(max_attempts = 1))]
async fn stores(ctx: &TaskContext, way: String, number: usize) -> anyhow::Result<Option<Given>> {
    let (broken, _) = broken().swap_remove(number);
    let payload = Takes {
        broken: broken.clone(),
    };
    match way.as_str() {
        "child" => ctx.invoke::<Takes>("child", payload).await?,
        "children" => drop(ctx.invoke_all::<Takes>("all", [payload]).await?),
        "schedule" => ctx.schedule::<Takes>("daily", "@daily", payload).await?,
        "event" => drop(ctx.emit("event", Happened { broken }).await?),
        "step" => drop(ctx.step("s", async || anyhow::Ok(Given { broken })).await?),
        _ => return Ok(Some(Given { broken })),
    }
    Ok(None)
}

#[track_caller]
fn refused<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>, words: &str) {
    let text = result.unwrap_err().to_string();
    let words = format!("broken.{words}");
    assert!(text.contains(&words), "{words:?} in {text}");
}

#[conductor::test]
async fn what_its_own_type_cannot_read_is_stored_nowhere(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for (number, (broken, words)) in broken().into_iter().enumerate() {
        let payload = || Takes {
            broken: broken.clone(),
        };
        refused(test.invoke::<Takes>(payload()).await, words);
        let later = test.invoke::<Takes>(payload()).delay(HOUR);
        refused(later.await, words);
        refused(test.invoke_batch::<Takes>([payload()]).await, words);
        let schedule = test.schedule::<Takes>("daily", "@daily", payload());
        refused(schedule.await, words);
        let tick = conductor::CronDefinition::encode::<Takes>(&payload());
        refused(tick, words);
        let event = || Happened {
            broken: broken.clone(),
        };
        refused(test.emit(event()).await, words);
        let mut tx = test.pool().begin().await?;
        let invoke = test.invoke::<Takes>(payload()).in_transaction(&mut tx);
        refused(invoke.await, words);
        refused(test.emit(event()).in_transaction(&mut tx).await, words);
        tx.commit().await?;
        for way in ["child", "children", "schedule", "event", "step", "output"] {
            let way = way.to_owned();
            let run = test.invoke::<Stores>(Stores { way, number }).await?;
            runs.push((run, words));
        }
    }
    test.drain().await?;
    for (run, words) in runs {
        let info = info(&test, run.id()).await?;
        assert_eq!(info.state, Status::Failed);
        refused(Err::<(), _>(info.error.unwrap_or_default()), words);
    }
    for stored in [
        "conductor.executions where task = 'same.takes'",
        "conductor.schedules where name = 'daily'",
        "conductor.events",
        "conductor.steps",
    ] {
        let sql = format!("select count(*) from {stored}");
        assert_eq!(number(&test, &sql).await, 0, "{stored}");
    }
    Ok(())
}

#[task(name = "same.has", retry(max_attempts = 1))]
async fn has(ctx: &TaskContext, odd: Odd) -> anyhow::Result<Odd> {
    note(&odd);
    ctx.sleep("an hour", HOUR).await?;
    Ok(odd)
}

#[task(name = "same.asks", retry(max_attempts = 1))]
async fn asks(ctx: &TaskContext) -> anyhow::Result<Odd> {
    let came = ctx.wait_for_event::<OddEvent>("event").await?;
    note(&came.odd);
    let gave = ctx.invoke::<Has>("child", Has { odd: odd() }).await?;
    note(&gave);
    ctx.sleep("an hour", HOUR).await?;
    Ok(gave)
}

#[event(name = "same.odd")]
struct OddEvent {
    odd: Odd,
}

static NOTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(odd: &Odd) {
    NOTED.lock().unwrap().push(format!("{odd:?}"));
}

/// What can be read, if as something else, every run reads from the store: none has the value that was given.
#[conductor::test]
async fn payloads_events_and_results_are_those_of_the_store(
    test: TestConductor,
) -> anyhow::Result<()> {
    let asks = test.invoke::<Asks>(()).await?;
    test.drain().await?;
    test.emit(OddEvent { odd: odd() }).await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(HOUR).await?;
    }
    test.drain().await?;
    note(&asks.result().await?);
    let noted = NOTED.lock().unwrap().clone();
    assert!(noted.len() > 5, "{}", noted.len());
    for one in &noted {
        assert_eq!(one, &noted[0]);
    }
    for part in [
        "rate: None",
        "cached: 0",
        "secret: \"\"",
        "Cents { cents: 5 }",
    ] {
        assert!(noted[0].contains(part), "{part} in {}", noted[0]);
    }
    Ok(())
}
