//! A run that gives a call something else than the run that recorded it is reported (G20): what is recorded is used,
//! and may be the value of something else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::check::Finding;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Field, Status};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::support::{info, number};

const HOUR: Duration = Duration::from_secs(3600);
const N: Field<Told, usize> = Field::new(&["n"]);

type Runs = Arc<AtomicUsize>;

#[event(name = "new_inputs.told")]
struct Told {
    n: usize,
}

#[task(name = "new_inputs.quote")]
async fn quote(ctx: &TaskContext, hours: u64) -> anyhow::Result<u64> {
    ctx.sleep("asks", HOUR * u32::try_from(hours)?).await?;
    Ok(hours)
}

#[task(name = "new_inputs.book")]
async fn book(ctx: &TaskContext, bag: HashMap<String, u64>) -> anyhow::Result<u64> {
    Ok(bag["hours"])
}

/// Books quotes as they come, under keys that count them or that name them.
#[task(name = "new_inputs.shop")]
async fn shop(ctx: &TaskContext, counts: bool) -> anyhow::Result<Vec<u64>> {
    let mut quotes: FuturesUnordered<_> = [2, 1]
        .map(|hours| ctx.invoke::<Quote>(format!("quote {hours}"), Quote { hours }))
        .into_iter()
        .collect();
    let mut booked = Vec::new();
    while let Some(hours) = quotes.next().await {
        let hours = hours?;
        let key = match counts {
            true => format!("book {}", booked.len()),
            false => format!("book {hours}"),
        };
        // Maps have another order in each run.
        let bag = (0..20)
            .map(|n| (n.to_string(), n))
            .collect::<HashMap<_, _>>();
        let bag = bag
            .into_iter()
            .chain([("hours".to_owned(), hours)])
            .collect();
        booked.push(ctx.invoke::<Book>(key, Book { bag }).await?);
    }
    ctx.sleep("pause", HOUR).await?;
    Ok(booked)
}

/// Gives one call the number of the run.
#[task(name = "new_inputs.each", retry(max_attempts = 3))]
async fn each(ctx: &TaskContext, way: String) -> anyhow::Result<()> {
    let n = ctx.state::<Runs>().fetch_add(1, SeqCst);
    let bag = HashMap::from([("hours".to_owned(), n as u64)]);
    match way.as_str() {
        "invoke" => drop(ctx.invoke::<Book>("call", Book { bag }).await?),
        "invoke_all" => drop(ctx.invoke_all::<Book>("call", [Book { bag }]).await?),
        "emit" => drop(ctx.emit("call", Told { n }).await?),
        "schedule" => {
            ctx.schedule::<Quote>("call", "0 0 1 1 *", Quote { hours: n as u64 })
                .await?
        }
        "sleep" => {
            ctx.sleep("call", HOUR + Duration::from_millis(n as u64))
                .await?
        }
        "event" => {
            let wait = ctx.wait_for_event::<Told>("call").when(N.ge(n));
            drop(wait.timeout(HOUR / 2).await);
        }
        other => panic!("{other}"),
    }
    ctx.sleep("pause", HOUR).await?;
    ctx.sleep("end", HOUR).await?;
    Ok(())
}

async fn new_input(test: &TestConductor, id: uuid::Uuid) -> anyhow::Result<Option<String>> {
    Ok(test.story(id).await?.and_then(|story| story.new_input))
}

#[conductor::test]
async fn values_that_come_in_another_order_are_noticed(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<Shop>(Shop { counts: true }).await?;
    let named = test.invoke::<Shop>(Shop { counts: false }).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(new_input(&test, run.id()).await?, None);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(new_input(&test, run.id()).await?.as_deref(), Some("book 0"));
    // Keys that name the item are right, whatever the order.
    assert_eq!(new_input(&test, named.id()).await?, None);
    let found = test.check().await?.findings;
    let finding = Finding::NewInput {
        task: "new_inputs.shop".to_owned(),
        executions: 1,
        execution: run.id(),
        key: "book 0".to_owned(),
    };
    assert!(found.contains(&finding), "{found:?}");
    let text = finding.to_string();
    assert!(text.contains("does not do the same in each run"), "{text}");
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(named.result().await?, [2, 1]);
    // The record stays what it is, so one was booked twice.
    assert_eq!(run.result().await?, [1, 1]);
    // It is no step.
    let story = test.story(run.id()).await?.unwrap();
    assert!(story.steps.iter().all(|step| !step.key.name.is_empty()));
    assert_eq!(story.new_input.as_deref(), Some("book 0"));
    Ok(())
}

/// Runs it to its end, and returns which call was noticed.
async fn noticed(test: TestConductor, way: &str) -> anyhow::Result<Option<String>> {
    let test = test.state(Runs::default());
    let way = way.to_owned();
    let run = test.invoke::<Each>(Each { way }).await?;
    for _ in 0..5 {
        test.drain().await?;
        test.advance(HOUR).await?;
    }
    assert_eq!(info(&test, run.id()).await?.state, Status::Completed);
    let key = new_input(&test, run.id()).await?;
    let notes = "select count(*) from conductor.steps where kind = 'new input'";
    assert_eq!(number(&test, notes).await, i64::from(key.is_some()));
    Ok(key)
}

#[conductor::test]
async fn another_payload_of_a_child_is_noticed(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(noticed(test, "invoke").await?.as_deref(), Some("call"));
    Ok(())
}

#[conductor::test]
async fn another_payload_of_one_of_many_is_noticed(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(
        noticed(test, "invoke_all").await?.as_deref(),
        Some("call[0]")
    );
    Ok(())
}

#[conductor::test]
async fn another_emitted_event_is_noticed(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(noticed(test, "emit").await?.as_deref(), Some("call"));
    Ok(())
}

#[conductor::test]
async fn another_schedule_is_noticed(test: TestConductor) -> anyhow::Result<()> {
    let key = noticed(test, "schedule").await?;
    assert_eq!(key.as_deref(), Some("schedule new_inputs.quote call"));
    Ok(())
}

#[conductor::test]
async fn another_filter_of_a_wait_is_noticed(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(noticed(test, "event").await?.as_deref(), Some("call"));
    Ok(())
}

/// What is left until some time is another duration in each run of correct code.
#[conductor::test]
async fn another_duration_of_a_sleep_is_right(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(noticed(test, "sleep").await?, None);
    Ok(())
}
