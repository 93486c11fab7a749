//! G17: what cannot work is refused at start, with the place in the source.
//! Clashing names and a missing `State<T>` stand in tests/refused.rs, in a registry of their own.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Orchestrator};

use crate::support::{narrow, orchestrators, soon};

#[task(name = "g17-lonely", queue = "g17-lonely")]
async fn g17_lonely(_ctx: &TaskContext) -> anyhow::Result<u32> {
    Ok(17)
}
const LINE: u32 = line!() - 4;

fn faults<T: std::fmt::Debug>(refused: conductor::Result<T>) -> Vec<String> {
    match refused {
        Err(Error::Refused(faults)) => faults,
        other => panic!("{other:?}"),
    }
}

#[conductor::test]
async fn a_task_whose_queue_nobody_serves_is_refused_with_its_place(
    test: TestConductor,
) -> anyhow::Result<()> {
    let orchestrator = test.orchestrator().worker(narrow(1)).build()?;
    let faults = faults(orchestrator.start().await);
    let place = format!("{}:{LINE}", file!());
    let fault = faults.iter().find(|fault| fault.contains("g17-lonely"));
    let fault = fault.unwrap();
    assert!(fault.contains(&place), "{fault} {place}");
    assert!(fault.contains("Worker::queue(\"g17-lonely\")"), "{fault}");
    assert_eq!(orchestrators(&test).await?, 0);
    Ok(())
}

#[conductor::test]
async fn an_unserved_queue_may_be_allowed_and_its_executions_wait(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G17Lonely>(()).await?;
    let allowed = test
        .orchestrator()
        .worker(narrow(1))
        .allow_unserved_queues()
        .build()?;
    allowed.drain().await?;
    assert_eq!(run.status().await?, conductor::Status::Pending);
    test.drain().await?;
    assert_eq!(run.result().await?, 17);
    Ok(())
}

#[conductor::test]
async fn a_queue_that_is_served_elsewhere_is_served(test: TestConductor) -> anyhow::Result<()> {
    let elsewhere = test.orchestrator().build()?.start().await?;
    let here = test
        .orchestrator()
        .worker(narrow(1))
        .build()?
        .start()
        .await?;
    let run = test.invoke::<G17Lonely>(()).await?;
    assert_eq!(soon("the result", run.result()).await?, 17);
    here.stop().await?;
    elsewhere.stop().await?;
    Ok(())
}

#[conductor::test]
async fn faults_of_the_workers_are_refused_together(conductor: Conductor) -> anyhow::Result<()> {
    let built = Orchestrator::builder(conductor)
        .worker(Worker::queue("twice"))
        .worker(Worker::queue("twice"))
        .worker(Worker::queue(" blank"))
        .worker(Worker::queue(""))
        .worker(Worker::queue("x".repeat(101)))
        .worker(Worker::queue("new\nline"))
        .build();
    let faults = faults(built);
    assert_eq!(faults.len(), 5, "{faults:?}");
    let all = faults.join("\n");
    for words in [
        "two workers serve the queue \"twice\"",
        "\" blank\" cannot be used: it begins or ends with white space",
        "\"\" cannot be used: it has 0 bytes",
        "it has 101 bytes",
        "\"new\\nline\" cannot be used: it contains a control character",
    ] {
        assert!(all.contains(words), "{words} is not in {all}");
    }
    Ok(())
}

#[conductor::test]
async fn a_lease_shorter_than_three_heartbeats_is_refused(
    conductor: Conductor,
) -> anyhow::Result<()> {
    let second = std::time::Duration::from_secs(1);
    let built = Orchestrator::builder(conductor)
        .heartbeat(second, 2 * second)
        .build();
    assert!(faults(built)[0].contains("at least three heartbeats"));
    Ok(())
}
