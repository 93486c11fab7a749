//! What the client returns can be written as JSON, with the words of SQL and with stored values as they are.

use conductor::Status;
use conductor::inspect::{Filter, Stuck};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use serde_json::{Value, json};

#[task(name = "info-json-measures", retry(max_attempts = 1))]
async fn info_json_measures(ctx: &TaskContext, size: f64) -> anyhow::Result<f64> {
    let doubled = ctx
        .step("double", || async move { anyhow::Ok(size * 2.0) })
        .await?;
    anyhow::ensure!(doubled < 10.0, "too large");
    Ok(doubled)
}

fn value(of: &impl serde::Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(of).unwrap()).unwrap()
}

#[conductor::test]
async fn an_execution_and_its_story_are_json(test: TestConductor) -> anyhow::Result<()> {
    let fine = test
        .untyped()
        .invoke("info-json-measures", r#"{"size":1.50}"#)
        .await?;
    let run = test
        .invoke::<InfoJsonMeasures>(InfoJsonMeasures { size: 9.0 })
        .await?;
    test.drain().await?;

    let info = test.inspect().find(fine).await?.unwrap();
    let text = serde_json::to_string(&info)?;
    assert!(text.contains(r#""payload":{"size":1.50}"#), "{text}");
    let info = value(&info);
    assert_eq!(info["state"], "completed");
    assert_eq!(info["trigger"], json!({"kind": "invoke"}));
    assert_eq!(info["stuck"], Value::Null);

    let story = test.inspect().story(run.id()).await?.unwrap();
    let story = value(&story);
    assert_eq!(story["info"]["state"], "failed");
    assert_eq!(story["failures"][0]["attempt"], 1);
    assert_eq!(
        story["steps"][0]["key"],
        json!({"name": "double", "part": null})
    );
    assert_eq!(story["steps"][0]["kind"], "step");
    assert_eq!(story["why"]["reason"], "done");
    assert_eq!(story["timeout_ms"], Value::Null);

    let failed = Filter {
        state: Some(Status::Failed),
        ..Filter::default()
    };
    assert_eq!(
        value(&test.inspect().list(&failed).await?)[0]["id"],
        json!(run.id())
    );
    let late = Stuck::Overtime(std::time::Duration::from_millis(1500));
    assert_eq!(value(&late), json!({"kind": "overtime", "by_ms": 1500}));
    assert_eq!(value(&Stuck::ProcessGone), json!({"kind": "process_gone"}));
    assert_eq!(value(&conductor::client::Invoked::Throttled), "throttled");
    Ok(())
}

#[conductor::test]
async fn queues_and_schedules_are_json(test: TestConductor) -> anyhow::Result<()> {
    test.schedule::<InfoJsonMeasures>("often", "@hourly", InfoJsonMeasures { size: 1.0 })
        .await?;
    assert!(
        test.schedules()
            .pause("info-json-measures", "often")
            .await?
    );
    let schedules = value(&test.schedules().await?);
    assert_eq!(schedules[0]["payload"], json!({"size": 1.0}));
    assert_eq!(schedules[0]["paused"], true);
    assert_eq!(schedules[0]["missed"], "once");
    assert!(test.queues().pause("default").await?);
    let queues = value(&test.queues().list().await?);
    assert_eq!(queues[0]["name"], "default");
    assert_eq!(queues[0]["paused"], true);
    Ok(())
}
