//! What the client and a handler are given comes back to the byte, in each place where a text may stand.

use std::collections::BTreeSet;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Field, Filter, Invocation};
use serde_json::json;
use uuid::Uuid;

use super::NAMES;
use crate::support::{count, declare, number};

#[event(name = "hostile.said")]
struct HostileSaid {
    text: String,
}

const TEXT: Field<HostileSaid, String> = Field::new(&["text"]);

/// Everything with a key.
#[task(
    name = "hostile.flow",
    retry(max_attempts = 1),
    concurrency(limit = 2, key = payload.text)
)]
async fn hostile_flow(ctx: &TaskContext, text: String) -> anyhow::Result<Vec<String>> {
    let key = |kind: &str| format!("{text}{kind}");
    let said = HostileSaid { text: text.clone() };
    let step = ctx.step(&*text, || async { anyhow::Ok(text.clone()) });
    let mut seen: Vec<String> = vec![step.await?];
    ctx.emit(key("emit"), said).await?;
    let waits = ctx.wait_for_event::<HostileSaid>(key("event"));
    seen.push(waits.when(TEXT.eq(text.clone())).await?.text);
    let written = ctx.transaction(key("transaction"), async |tx| {
        sqlx::query_scalar("insert into hostile_notes values ($1) returning text")
            .bind(&text)
            .fetch_one(tx)
            .await
    });
    seen.push(written.await?);
    ctx.sleep(key("sleep"), Duration::from_millis(1)).await?;
    let child = HostileChild { text: text.clone() };
    seen.push(ctx.invoke::<HostileChild>(key("child"), child).await?);
    Ok(seen)
}

#[task(name = "hostile.child")]
async fn hostile_child(_ctx: &TaskContext, text: String) -> anyhow::Result<String> {
    Ok(text)
}

fn of_task(task: &str) -> Filter {
    Filter {
        task: Some(task.to_owned()),
        limit: 1000,
        ..Filter::default()
    }
}

/// A schedule's whole life under this name; gives what it has started.
async fn scheduled(test: &TestConductor, name: &str, child: HostileChild) -> anyhow::Result<Uuid> {
    let task = HostileChild::NAME;
    test.schedule::<HostileChild>(name, "0 0 1 1 *", child)
        .await?;
    assert!(test.pause_schedule(task, name).await?);
    let known = test.schedules().await?;
    assert!(known.iter().any(|known| known.name == name && known.paused));
    assert!(test.resume_schedule(task, name).await?);
    let started = test.trigger_schedule(task, name).await?.unwrap();
    assert!(test.unschedule::<HostileChild>(name).await?);
    assert!(!test.pause_schedule(task, name).await?);
    Ok(started)
}

#[conductor::test]
async fn every_text_comes_back_as_it_was(test: TestConductor) -> anyhow::Result<()> {
    sqlx::query("create table hostile_notes (text text primary key)")
        .execute(test.pool())
        .await?;
    test.drain().await?;
    let tables = "select count(*) from pg_class where relnamespace = 'conductor'::regnamespace";
    let tables_before = number(&test, tables).await;
    let mut runs = Vec::new();
    for name in NAMES {
        let text = || (*name).to_owned();
        let child = || HostileChild { text: text() };
        let flow = || HostileFlow { text: text() };
        // Under one key both are one.
        let first = test.invoke::<HostileFlow>(flow()).dedupe_key(*name).await?;
        let run = test.invoke::<HostileFlow>(flow()).dedupe_key(*name).await?;
        assert_eq!(first.id(), run.id());
        let items = (0..2).map(|_| Invocation::new(child()).dedupe_key(*name));
        let both = test.invoke_batch_with::<HostileChild>(items).await?;
        assert_eq!(both[0], both[1], "{name}");
        let once = test
            .invoke::<HostileChild>(child())
            .dedupe_key(text() + "once");
        let once = once.throttle(Duration::from_secs(60)).await?;

        let gone = test
            .invoke::<HostileChild>(child())
            .delay(Duration::from_secs(3600));
        let gone = gone.await?.id();
        assert!(test.cancel(gone).reason(*name).await?);
        assert_eq!(test.story(gone).await?.unwrap().cancel_reason, Some(text()));

        let payload = json!({*name: [*name, {*name: null}]}).to_string();
        let event = test.emit_json(name, &payload).await?;
        let events = test.events(Some(name), 10).await?;
        let events: Vec<_> = events
            .iter()
            .map(|e| (e.id, &*e.name, e.payload.get()))
            .collect();
        assert_eq!(events, [(event, *name, &*payload)]);

        let started = scheduled(&test, name, child()).await?;
        runs.push((*name, run, [both[0], once.id(), started]));

        // A task that no binary has; `test.drain` leaves it alone.
        declare(&test, name).await?;
        let foreign = test.invoke_json(name, &payload).await?;
        assert_eq!(test.find(foreign).await?.unwrap().payload.get(), payload);
        assert_eq!(test.list(&of_task(name)).await?.len(), 1);
        assert!(!test.why(foreign).await?.text.is_empty());
        assert!(!test.pause_queue(name).await?);
    }
    test.drain().await?;

    for (name, run, children) in &runs {
        assert_eq!(run.result().await?, vec![*name; 4]);
        let story = test.story(run.id()).await?.unwrap();
        assert_eq!(story.info.dedupe_key.as_deref(), Some(*name));
        let keys: BTreeSet<String> = story
            .steps
            .iter()
            .map(|step| step.key.name.clone())
            .collect();
        let kinds = ["", "emit", "event", "transaction", "child"];
        let expected: BTreeSet<String> = kinds.iter().map(|kind| format!("{name}{kind}")).collect();
        assert_eq!(keys, expected, "{name}");
        assert!(
            story
                .waits
                .iter()
                .any(|wait| wait.key.name == format!("{name}sleep"))
        );
        for id in children {
            assert_eq!(test.outcome(*id).await?, json!(name).to_string());
        }
    }
    let trigger = "select count(*) from conductor.executions x
                    where x.trigger ->> 'kind' = 'schedule' and x.trigger ->> 'name' = x.payload ->> 'text'";
    let names = NAMES.len() as i64;
    assert_eq!(number(&test, trigger).await, names);
    assert_eq!(
        number(&test, "select count(*) from hostile_notes").await,
        names
    );
    assert_eq!(number(&test, tables).await, tables_before);
    // The flow and its child; of a batch, throttled, cancelled, scheduled, foreign.
    assert_eq!(count(&test, "true").await?, names * 7);
    assert_eq!(count(&test, "failures > 0").await?, 0);
    Ok(())
}
