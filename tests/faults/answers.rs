//! The server has done what it was asked, and the answer is lost on its way: nobody knows.

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;

use super::{
    Bodies, EFFECTS, FaultsChild, FaultsHeard, FaultsTold, FaultsWorkflow, outputs, start,
};
use crate::support::{Proxy, count, eventually, number};

#[conductor::test]
async fn a_call_whose_answer_is_lost_is_made_once(test: TestConductor) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let client = Conductor::connect_to(&proxy.url()).await?;

    proxy.lose_answers("invoke_many", 3);
    let run = client.invoke::<FaultsChild>(FaultsChild { n: 1 }).await?;
    assert_eq!(proxy.lost(), 3);
    assert_eq!(run.status().await?, Status::Pending);
    assert_eq!(count(&test, "true").await?, 1);

    proxy.lose_answers("invoke_many", 2);
    let keyed = client
        .invoke::<FaultsChild>(FaultsChild { n: 2 })
        .dedupe_key("key");
    assert_eq!(keyed.await?.came_of(), conductor::Invoked::Created);
    assert_eq!(proxy.lost(), 2);
    assert_eq!(count(&test, "true").await?, 2);

    proxy.lose_answers("invoke_many", 1);
    client
        .invoke_batch::<FaultsChild>((0..10).map(|n| FaultsChild { n }))
        .await?;
    assert_eq!((proxy.lost(), count(&test, "true").await?), (1, 12));

    // Several statements in one transaction.
    proxy.lose_answers("commit", 2);
    client
        .invoke_batch::<FaultsChild>((0..6000).map(|n| FaultsChild { n }))
        .await?;
    assert_eq!((proxy.lost(), count(&test, "true").await?), (2, 6012));

    proxy.lose_answers("conductor.cancel", 1);
    client.cancel(run.id()).reason("enough").await?;
    assert_eq!(proxy.lost(), 1);
    assert_eq!(run.status().await?, Status::Cancelled);
    Ok(())
}

#[conductor::test]
async fn an_event_whose_answer_is_lost_is_emitted_once(test: TestConductor) -> anyhow::Result<()> {
    let bodies = Bodies::default();
    let worker = start(&test, &bodies).await?;
    let proxy = Proxy::of(&test).await?;
    let client = Conductor::connect_to(&proxy.url()).await?;
    proxy.lose_answers("emit_many", 3);
    client.emit(FaultsTold { n: 1 }).await?;
    assert_eq!(proxy.lost(), 3);
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        1
    );
    eventually("the end", || async {
        count(&test, "state = 'completed'").await.unwrap() > 0
    })
    .await;
    let heard = test.list(&conductor::Filter::default()).await?;
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].task, FaultsHeard::NAME);
    worker.stop().await?;
    Ok(())
}

/// Every kind of write of a worker, one after the other.
#[conductor::test]
async fn a_worker_whose_answers_are_lost_does_everything_once(
    test: TestConductor,
) -> anyhow::Result<()> {
    sqlx::query(EFFECTS).execute(test.pool()).await?;
    let proxy = Proxy::of(&test).await?;
    let bodies = Bodies::default();
    let worker = start(&Conductor::connect_to(&proxy.url()).await?, &bodies).await?;
    let mut runs = Vec::new();
    for (statement, times) in [
        ("conductor.record_steps", 2),
        ("COMMIT", 3),
        ("conductor.suspend", 2),
        ("conductor.finish_and_claim", 8),
    ] {
        proxy.lose_answers(statement, times);
        let mut some = Vec::new();
        for n in 0..5 {
            some.push(test.invoke::<FaultsWorkflow>(FaultsWorkflow { n }).await?);
        }
        let outputs = outputs(&some).await?;
        assert_eq!(outputs, [3, 4, 5, 6, 7], "{statement}");
        assert!(proxy.lost() >= 1, "{statement}");
        runs.extend(some);
    }
    worker.stop().await?;
    assert_eq!(count(&test, "failures + crashes > 0").await?, 0);
    assert_eq!(
        number(&test, "select count(*) from effects").await,
        runs.len() as i64
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        runs.len() as i64
    );
    // Step, transaction and end, and the child.
    assert_eq!(bodies.each_once(), runs.len() * 4);
    assert_eq!(
        count(&test, "state = 'completed'").await?,
        runs.len() as i64 * 3
    );
    Ok(())
}
