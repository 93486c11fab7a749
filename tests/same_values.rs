//! The first run sees what a replay sees (G21): a value goes on as it is read from its record.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::info;

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
