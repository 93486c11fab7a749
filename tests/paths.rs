//! An error about a value names the field, however deep it is and whoever reads or writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::support::{info, left, run_sql};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Order {
    method: Method,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Method {
    digits: u32,
    /// JSON has no such keys.
    #[serde(default)]
    #[schemars(with = "Value")]
    shares: BTreeMap<Pair, u8>,
}

type Pair = (u8, u8);

fn good() -> Order {
    let shares = BTreeMap::new();
    Order {
        method: Method { digits: 1, shares },
    }
}

/// No JSON can be made of it.
fn unwritable() -> Order {
    let mut order = good();
    order.method.shares.insert((1, 2), 3);
    order
}

const BAD: &str = r#"{"order":{"method":{"digits":"12"}}}"#;
const READ: &str = "order.method.digits: invalid type: string \"12\", expected u32";
const WRITTEN: &str = "order.method.shares: key must be a string";

#[task(name = "paths.pay", retry(max_attempts = 1))]
async fn pay(_ctx: &TaskContext, order: Order) -> anyhow::Result<u32> {
    Ok(order.method.digits)
}

#[event(name = "paths.paid")]
struct Paid {
    order: Order,
}

#[track_caller]
fn told<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>, words: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(words), "{words:?} in {text}");
}

#[conductor::test]
async fn whoever_gives_json_is_told_the_field(test: TestConductor) -> anyhow::Result<()> {
    let task = Pay::NAME;
    told(test.invoke_json(task, BAD).await, READ);
    told(test.invoke_batch_json(task, [BAD]).await, READ);
    let schedule = test.schedule_json(task, "daily", "@daily", BAD, |schedule| schedule);
    told(schedule.await, READ);
    told(test.emit_json(Paid::NAME, BAD).await, READ);
    Ok(())
}

#[conductor::test]
async fn whoever_gives_a_value_is_told_the_field(test: TestConductor) -> anyhow::Result<()> {
    let payload = || Pay {
        order: unwritable(),
    };
    told(test.invoke::<Pay>(payload()).await, WRITTEN);
    told(test.invoke_batch::<Pay>([payload()]).await, WRITTEN);
    let schedule = test.schedule::<Pay>("daily", "@daily", payload());
    told(schedule.await, WRITTEN);
    let order = unwritable();
    told(test.emit(Paid { order }).await, WRITTEN);
    Ok(())
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Receipt {
    order: Order,
}

#[task(name = "paths.calls", retry(max_attempts = 1))]
async fn calls(ctx: &TaskContext, call: String) -> anyhow::Result<Receipt> {
    let order = unwritable();
    let payload = || Pay {
        order: order.clone(),
    };
    let receipt = || Receipt {
        order: order.clone(),
    };
    match call.as_str() {
        "step" => drop(ctx.step("s", async || anyhow::Ok(receipt())).await?),
        "transaction" => {
            let body = async |_: &mut conductor::Tx| anyhow::Ok(receipt());
            ctx.transaction("t", body).await?;
        }
        "invoke" => drop(ctx.invoke::<Pay>("child", payload()).await?),
        "invoke_all" => drop(ctx.invoke_all::<Pay>("all", [payload()]).await?),
        "emit" => {
            let order = order.clone();
            ctx.emit("paid", Paid { order }).await?;
        }
        "schedule" => ctx.schedule::<Pay>("daily", "@daily", payload()).await?,
        _ => return Ok(receipt()),
    }
    anyhow::bail!("not reached")
}

#[conductor::test]
async fn an_execution_that_fails_of_a_value_names_the_field(
    test: TestConductor,
) -> anyhow::Result<()> {
    for call in [
        "step",
        "transaction",
        "invoke",
        "invoke_all",
        "emit",
        "schedule",
        "output",
    ] {
        let payload = Calls { call: call.into() };
        let run = test.invoke::<Calls>(payload).await?;
        test.drain().await?;
        let info = info(&test, run.id()).await?;
        assert_eq!(info.state, Status::Failed, "{call}");
        let text = info.error.unwrap_or_default();
        assert!(text.contains(WRITTEN), "{call}: {text}");
    }
    Ok(())
}

/// What `paths.any` gives, as another program knows it.
struct Other;

impl Task for Other {
    type Payload = Value;
    type Output = Receipt;
    const NAME: &'static str = Any::NAME;
}

#[task(name = "paths.any")]
async fn any(_ctx: &TaskContext, payload: Value) -> anyhow::Result<Value> {
    Ok(payload)
}

#[task(name = "paths.parent")]
async fn parent(ctx: &TaskContext, payload: Value) -> anyhow::Result<u32> {
    let receipt = ctx.invoke::<Other>("child", payload).await?;
    Ok(receipt.order.method.digits)
}

#[task(name = "paths.waits")]
async fn waits(ctx: &TaskContext) -> anyhow::Result<u32> {
    let paid = ctx.wait_for_event::<Paid>("paid").await?;
    Ok(paid.order.method.digits)
}

#[conductor::test]
async fn whoever_reads_what_is_stored_is_told_the_field(test: TestConductor) -> anyhow::Result<()> {
    let bad: Value = serde_json::from_str(BAD)?;
    let other = test.invoke::<Other>(bad.clone()).await?;
    let parent = test.invoke::<Parent>(bad).await?;
    let waits = test.invoke::<Waits>(()).await?;
    test.drain().await?;
    match other.result().await {
        Err(Error::Output { reason, .. }) => assert!(reason.starts_with(READ), "{reason}"),
        other => anyhow::bail!("{other:?}"),
    }
    // SQL does not know what a task wants.
    let sql = format!("select conductor.invoke('{}', '{BAD}')", Pay::NAME);
    run_sql(&test, &sql).await?;
    run_sql(
        &test,
        &format!("select conductor.emit('{}', '{BAD}')", Paid::NAME),
    )
    .await?;
    test.advance(Duration::from_secs(1)).await?;
    test.drain().await?;
    let pays = conductor::Filter {
        task: Some(Pay::NAME.to_owned()),
        ..Default::default()
    };
    let pay = test.list(&pays).await?[0].id;
    for id in [pay, parent.id(), waits.id()] {
        let text = left(&test, id).await?;
        assert!(text.contains(READ), "{text}");
    }
    let findings = test.check().await?.findings;
    for task in [Pay::NAME, Waits::NAME] {
        let told = findings.iter().map(ToString::to_string);
        let mut told = told.filter(|text| text.contains(task) && text.contains(READ));
        assert!(told.next().is_some(), "{task} in {findings:?}");
    }
    Ok(())
}
