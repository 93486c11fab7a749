//! Events that code declares, and the tasks that they start.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Filter, Status, Trigger};

use crate::support::soon;

#[event(name = "events.signed-up")]
struct EventsSignedUp {
    user_id: i64,
    plan: String,
    visits: u32,
}

#[event(name = "events.left")]
struct EventsLeft {
    user_id: i64,
}

#[task(name = "events.welcome", event(EventsSignedUp, when = plan == "pro" && visits > 3))]
async fn events_welcome(ctx: &TaskContext, payload: EventsSignedUp) -> anyhow::Result<i64> {
    match ctx.trigger() {
        Trigger::Event { name, .. } => assert_eq!(name, "events.signed-up"),
        other => anyhow::bail!("{other:?}"),
    }
    Ok(payload.user_id)
}

#[task(name = "events.count", event(EventsSignedUp), event(EventsLeft))]
async fn events_count(_ctx: &TaskContext, user: i64) -> anyhow::Result<i64> {
    Ok(user)
}

impl From<EventsSignedUp> for EventsCount {
    fn from(event: EventsSignedUp) -> Self {
        Self {
            user: event.user_id,
        }
    }
}

impl From<EventsLeft> for EventsCount {
    fn from(event: EventsLeft) -> Self {
        Self {
            user: event.user_id,
        }
    }
}

#[task(
    name = "events.together",
    event(EventsLeft),
    batch(max_size = 10, max_wait = "50ms")
)]
async fn events_together(_ctx: &BatchContext, items: Vec<EventsLeft>) -> anyhow::Result<Vec<i64>> {
    Ok(items.iter().map(|item| item.user_id).collect())
}

#[task(name = "events.waits")]
async fn events_waits(ctx: &TaskContext) -> anyhow::Result<i64> {
    let event = ctx
        .wait_for_event::<EventsSignedUp>("pro")
        .when(
            EventsSignedUp::plan
                .eq("pro")
                .and(EventsSignedUp::visits.gt(1)),
        )
        .timeout(Duration::from_secs(60))
        .await?;
    Ok(event.user_id)
}

fn signed_up(user_id: i64, plan: &str, visits: u32) -> EventsSignedUp {
    EventsSignedUp {
        user_id,
        plan: plan.to_owned(),
        visits,
    }
}

/// The outputs of a task's executions, sorted.
async fn outputs(test: &TestConductor, task: &str) -> anyhow::Result<Vec<String>> {
    let filter = Filter {
        task: Some(task.to_owned()),
        ..Filter::default()
    };
    let mut outputs = Vec::new();
    for found in test.list(&filter).await? {
        assert_eq!(found.state, Status::Completed, "{:?}", found.error);
        let info = test.find(found.id).await?.unwrap();
        outputs.push(info.output.unwrap().get().to_owned());
    }
    outputs.sort();
    Ok(outputs)
}

#[conductor::test]
async fn each_event_starts_one_execution_of_each_task_that_it_matches(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    test.emit(signed_up(1, "pro", 4)).await?;
    test.emit(signed_up(2, "pro", 3)).await?;
    test.emit(signed_up(3, "free", 9)).await?;
    let mut tx = test.pool().begin().await?;
    test.emit(signed_up(4, "pro", 9))
        .in_transaction(&mut tx)
        .await?;
    tx.rollback().await?;
    let mut tx = test.pool().begin().await?;
    test.emit(EventsLeft { user_id: 5 })
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "events.welcome").await?, ["1"]);
    assert_eq!(outputs(&test, "events.count").await?, ["1", "2", "3", "5"]);
    assert_eq!(outputs(&test, "events.together").await?, ["5"]);
    Ok(())
}

#[conductor::test]
async fn a_wait_takes_the_first_that_its_filter_matches(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<EventsWaits>(()).await?;
    test.emit(signed_up(1, "pro", 1)).await?;
    test.emit(signed_up(2, "free", 2)).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    test.emit(signed_up(3, "pro", 2)).await?;
    test.emit(signed_up(4, "pro", 2)).await?;
    test.drain().await?;
    assert_eq!(soon("its end", run.result()).await?, 3);
    Ok(())
}
