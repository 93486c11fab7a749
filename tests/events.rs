//! Events that code declares, and the tasks that they start.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Filter, Status, Trigger};

use crate::support::{number, run_sql, soon};

#[event(name = "events.signed-up")]
struct EventsSignedUp {
    user_id: i64,
    plan: String,
    visits: u32,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema, EventFields)]
#[serde(rename_all = "camelCase")]
struct EventsAddress {
    post_code: String,
}

/// Has fields of fields, which serde renames, and is not kept for long.
#[event(name = "events.moved", keep = "1h")]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct EventsMoved {
    user_id: i64,
    to: EventsAddress,
    from: Option<EventsAddress>,
}

#[task(
    name = "events.moved-within",
    event(EventsMoved, when = to.post_code == "10115" && from.post_code != "10115")
)]
async fn events_moved_within(_ctx: &TaskContext, payload: EventsMoved) -> anyhow::Result<i64> {
    Ok(payload.user_id)
}

#[task(name = "events.waits-moved", retry(max_attempts = 1))]
async fn events_waits_moved(ctx: &TaskContext, from: String) -> anyhow::Result<i64> {
    let event = ctx
        .wait_for_event::<EventsMoved>("moved")
        .when(EventsMoved::from.then(EventsAddress::post_code).eq(from))
        .timeout(Duration::from_secs(60))
        .await?;
    Ok(event.user_id)
}

fn moved(user_id: i64, from: Option<&str>, to: &str) -> EventsMoved {
    let address = |code: &str| EventsAddress {
        post_code: code.to_owned(),
    };
    EventsMoved {
        user_id,
        to: address(to),
        from: from.map(address),
    }
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

#[conductor::test]
async fn filters_reach_renamed_fields_of_fields(test: TestConductor) -> anyhow::Result<()> {
    let waits = |from: &str| EventsWaitsMoved {
        from: from.to_owned(),
    };
    let run = test.invoke::<EventsWaitsMoved>(waits("10117")).await?;
    let other = test.invoke::<EventsWaitsMoved>(waits("99999")).await?;
    test.drain().await?;
    test.emit(moved(1, None, "10115")).await?;
    test.emit(moved(2, Some("10115"), "10115")).await?;
    test.emit(moved(3, Some("10117"), "10115")).await?;
    test.emit(moved(4, Some("10117"), "10119")).await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "events.moved-within").await?, ["3"]);
    assert_eq!(run.result().await?, 3);
    assert_eq!(other.status().await?, Status::Suspended);
    Ok(())
}

#[conductor::test]
async fn an_event_that_did_not_come_is_waited_for_again_by_a_retry(
    test: TestConductor,
) -> anyhow::Result<()> {
    let from = "10117".to_owned();
    let run = test
        .invoke::<EventsWaitsMoved>(EventsWaitsMoved { from })
        .await?;
    test.drain().await?;
    test.advance(Duration::from_secs(60)).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Failed);
    let again = test.retry(run.id()).await?.unwrap();
    test.drain().await?;
    test.emit(moved(7, Some("10117"), "")).await?;
    test.drain().await?;
    let again = test.execution::<EventsWaitsMoved>(again);
    assert_eq!(soon("its end", again.result()).await?, 7);
    Ok(())
}

#[conductor::test]
async fn each_event_is_kept_as_long_as_it_says(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    for _ in 0..3 {
        test.emit(moved(1, None, "")).await?;
    }
    test.emit(EventsLeft { user_id: 1 }).await?;
    test.advance(Duration::from_secs(59 * 60)).await?;
    run_sql(&test, "select conductor.prune(2)").await?;
    assert_eq!(test.events(None, 10).await?.len(), 4);
    test.advance(Duration::from_secs(2 * 60)).await?;
    // So many at a time; how many of the kind of which there were most.
    for (left, removed) in [(2, 2), (1, 1), (1, 0)] {
        let pruned = number(&test, "select conductor.prune_events(2)::bigint").await;
        assert_eq!(pruned, removed);
        assert_eq!(test.events(None, 10).await?.len(), left);
    }
    test.advance(Duration::from_secs(7 * 24 * 60 * 60)).await?;
    run_sql(&test, "select conductor.prune(2)").await?;
    assert_eq!(test.events(None, 10).await?.len(), 0);
    Ok(())
}

#[task(name = "events.unstorable")]
async fn events_unstorable(ctx: &TaskContext, deep: bool) -> anyhow::Result<String> {
    let mut filter = EventsLeft::user_id.eq(1);
    for _ in 0..if deep { 200 } else { 0 } {
        filter = !filter.and(EventsLeft::user_id.gt(0));
    }
    let wait = ctx.wait_for_event::<EventsSignedUp>("wait");
    let refused = if deep {
        let wait = ctx.wait_for_event::<EventsLeft>("deep").when(filter);
        wait.await.unwrap_err()
    } else {
        wait.when(EventsSignedUp::plan.eq("a\0b"))
            .await
            .unwrap_err()
    };
    Ok(refused.to_string())
}

#[conductor::test]
async fn a_filter_that_cannot_be_stored_is_an_error(test: TestConductor) -> anyhow::Result<()> {
    for (deep, words) in [(true, "levels deep"), (false, "U+0000")] {
        let run = test
            .invoke::<EventsUnstorable>(EventsUnstorable { deep })
            .await?;
        test.drain().await?;
        let said = soon("its end", run.result()).await?;
        assert!(
            said.contains("filter cannot be stored") && said.contains(words),
            "{said}"
        );
    }
    Ok(())
}

#[conductor::test]
async fn emits_at_the_same_time_travel_together(test: TestConductor) -> anyhow::Result<()> {
    let mut emits = tokio::task::JoinSet::new();
    for user_id in 0..200 {
        let conductor = (*test).clone();
        emits.spawn(async move { conductor.emit(EventsLeft { user_id }).await });
    }
    let ids: std::collections::BTreeSet<_> = emits
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    assert_eq!(ids.len(), 200);
    assert_eq!(test.events(None, 1000).await?.len(), 200);
    // Those of one statement have one time.
    let statements = "select count(distinct emitted_at) from conductor.events";
    let statements = number(&test, statements).await;
    assert!(statements < 40, "{statements} statements");
    Ok(())
}
