//! G10 for the schedules that code declares. Their tasks are not linked, because they would tick in every database
//! on which another test starts a worker: each test has a registry of its own.

mod backlog;
mod changes;
mod clocks;
mod deploys;
mod idle;
mod network;
mod processes;
mod steering;
mod time;

use std::ops::Deref;
use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor::prelude::*;
use conductor::testing::{FromTest, TestConductor};
use conductor::{Registry, Trigger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::to_half_past;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A database of a test's own, on which these tasks run.
struct Ticking(TestConductor);

impl Ticking {
    async fn new() -> anyhow::Result<Self> {
        Ok(Self(TestConductor::new().await?.tasks(tasks())))
    }
}

impl FromTest for Ticking {
    fn from_test(test: TestConductor) -> (Self, Option<TestConductor>) {
        (Self(test.tasks(tasks())), None)
    }
}

impl Deref for Ticking {
    type Target = TestConductor;

    fn deref(&self) -> &TestConductor {
        &self.0
    }
}

fn tasks() -> Registry {
    Registry::new()
        .task::<FromTick>()
        .task::<Given>()
        .task::<Panics>()
        .task::<Tick>()
        .task::<steering::Gated>()
}

/// A payload that comes from the tick.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Day {
    at: DateTime<Utc>,
}

impl From<CronTick> for Day {
    fn from(tick: CronTick) -> Self {
        Self {
            at: tick.scheduled_at,
        }
    }
}

#[task(
    linked = false,
    cron("0 * * * *", missed = "all"),
    keep(completed = "30d")
)]
async fn from_tick(ctx: &TaskContext, payload: Day) -> anyhow::Result<bool> {
    Ok(
        matches!(ctx.trigger(), Trigger::Schedule { scheduled_at, .. } if *scheduled_at == payload.at),
    )
}

#[task(
    linked = false,
    cron("0 6 * * *", name = "morning", tz = "Europe/Berlin", payload = Given { word: "good morning".to_owned() }),
    cron("0 20 * * *", name = "evening", tz = "Europe/Berlin", payload = Given { word: "good evening".to_owned() })
)]
async fn given(ctx: &TaskContext, word: String) -> anyhow::Result<String> {
    Ok(match ctx.trigger() {
        Trigger::Schedule { name, .. } => format!("{name}: {word}"),
        _ => word,
    })
}

#[task(linked = false, cron("30 * * * *", payload = broken()))]
async fn panics(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

fn broken() -> Panics {
    panic!("no payload")
}

async fn outputs(test: &TestConductor, task: &str) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "select output #>> '{}' from conductor.finished where task = $1 and state = 'completed' order by id",
    )
    .bind(task)
    .fetch_all(test.pool())
    .await?)
}

#[conductor::test]
async fn ticks_come_with_their_payloads(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    for _ in 0..24 {
        test.advance(HOUR).await?;
        test.drain().await?;
    }
    assert_eq!(outputs(&test, "from_tick").await?, vec!["true"; 24]);
    let mut words = outputs(&test, "given").await?;
    words.sort();
    assert_eq!(words, ["evening: good evening", "morning: good morning"]);
    // One whose payload cannot be made disturbs no other.
    assert!(outputs(&test, "panics").await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_tick_whose_payload_cannot_be_made_ends_as_failed(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(Duration::from_secs(60)).await?;
    }
    let (state, failures, error): (String, i32, String) = sqlx::query_as(
        "select state, failures, error from conductor.finished where task = 'panics'",
    )
    .fetch_one(test.pool())
    .await?;
    assert_eq!((&*state, failures), ("failed", 3));
    let begins = "schedule \"default\" makes no payload of this tick: its code panicked at ";
    assert!(error.starts_with(begins), "{error}");
    Ok(())
}

#[conductor::test]
async fn a_payload_that_can_be_made_later_is_that_of_the_tick(test: Ticking) -> anyhow::Result<()> {
    test.drain().await?;
    // What a worker says that could not make it.
    sqlx::raw_sql(
        "select conductor.tick(array[s.id], array[s.version], array[s.next_at + interval '1 hour'], array[null],
                               array[s.id], array[conductor.uuid7()], array[s.next_at - interval '1 hour'], array[null])
           from conductor.schedules s join conductor.tasks t on t.id = s.task_id where t.name = 'from_tick'",
    )
    .execute(test.pool())
    .await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?, ["true"]);
    Ok(())
}

#[conductor::test]
async fn while_nobody_lives_nothing_ticks_and_all_is_made_up_for(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.advance(HOUR * 5).await?;
    assert!(outputs(&test, "from_tick").await?.is_empty());
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 5);
    Ok(())
}

/// What dynamic schedules invoke.
#[task(linked = false, keep(completed = "30d"))]
async fn tick(_ctx: &TaskContext, word: String) -> anyhow::Result<String> {
    Ok(word)
}

fn word() -> Tick {
    Tick {
        word: "x".to_owned(),
    }
}

/// The ticks of the schedule of this name that have an execution, in order.
async fn ticks(test: &TestConductor, name: &str) -> anyhow::Result<Vec<DateTime<Utc>>> {
    Ok(sqlx::query_scalar(
        "select (trigger->>'scheduled_at')::timestamptz from conductor.executions
          where trigger->>'name' = $1 order by 1",
    )
    .bind(name)
    .fetch_all(test.pool())
    .await?)
}
