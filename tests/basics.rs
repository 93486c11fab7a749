//! The main path: invoke, run, result.

use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

#[task]
async fn greet(_ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    Ok(format!("Hello, {name}!"))
}

#[conductor::test]
async fn an_invoke_is_run_and_answered(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<Greet>(Greet {
            name: "Alice".into(),
        })
        .await?;
    assert_eq!(run.status().await?, Status::Pending);
    test.drain().await?;
    assert_eq!(run.result().await?, "Hello, Alice!");
    assert_eq!(run.status().await?, Status::Completed);
    Ok(())
}

#[conductor::test]
async fn a_delayed_one_waits_for_its_time(test: TestConductor) -> anyhow::Result<()> {
    let run = test
        .invoke::<Greet>(Greet { name: "Bob".into() })
        .delay(Duration::from_secs(3600))
        .await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Pending);
    test.advance(Duration::from_secs(3601)).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "Hello, Bob!");
    Ok(())
}

#[conductor::test]
async fn a_running_worker_answers_at_once(test: TestConductor) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<Greet>(Greet { name: "Eve".into() }).await?;
    assert_eq!(run.result().await?, "Hello, Eve!");
    worker.stop().await?;
    Ok(())
}
