//! G10 for the schedules that code declares. Its own binary: its tasks tick in every database on
//! which one of its workers starts.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::time::Duration;

use chrono::{DateTime, Utc};
use conductor::Trigger;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const HOUR: Duration = Duration::from_secs(60 * 60);

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

#[task(cron("0 * * * *", missed = "all"))]
async fn from_tick(ctx: &TaskContext, payload: Day) -> anyhow::Result<bool> {
    Ok(
        matches!(ctx.trigger(), Trigger::Schedule { scheduled_at, .. } if *scheduled_at == payload.at),
    )
}

#[task(
    cron("0 6 * * *", name = "morning", tz = "Europe/Berlin", payload = Given { word: "good morning".to_owned() }),
    cron("0 20 * * *", name = "evening", tz = "Europe/Berlin", payload = Given { word: "good evening".to_owned() })
)]
async fn given(ctx: &TaskContext, word: String) -> anyhow::Result<String> {
    Ok(match ctx.trigger() {
        Trigger::Schedule { name, .. } => format!("{name}: {word}"),
        _ => word,
    })
}

#[task(cron("30 * * * *", payload = broken()))]
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
async fn ticks_come_with_their_payloads(test: TestConductor) -> anyhow::Result<()> {
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
async fn while_nobody_lives_nothing_ticks_and_all_is_made_up_for(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    test.advance(HOUR * 5).await?;
    assert!(outputs(&test, "from_tick").await?.is_empty());
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 5);
    Ok(())
}

/// Declares what another version, or another service, has.
async fn deploy(
    test: &TestConductor,
    package: &str,
    tasks: &str,
    json: &str,
) -> anyhow::Result<()> {
    sqlx::query(
        "select conductor.declare_schedules(array[$1],
             array(select id from conductor.tasks where name = any (string_to_array($2, ','))), $3::jsonb)",
    )
    .bind(package)
    .bind(tasks)
    .bind(json)
    .execute(test.pool())
    .await?;
    Ok(())
}

async fn names(test: &TestConductor) -> anyhow::Result<Vec<String>> {
    let schedules = test.schedules().await?;
    Ok(schedules
        .iter()
        .map(|s| format!("{} {} {}", s.task, s.name, s.cron))
        .collect())
}

#[conductor::test]
async fn a_deploy_changes_its_own_schedules_and_no_others(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    test.schedule::<Given>(
        "by hand",
        "@daily",
        Given {
            word: "x".to_owned(),
        },
    )
    .await?;
    // Another service knows nothing of these tasks, and takes nothing away.
    deploy(&test, "elsewhere", "", "[]").await?;
    assert_eq!(test.schedules().await?.len(), 5);
    // A new version: one rule changed, one removed, one as it was.
    deploy(
        &test,
        env!("CARGO_PKG_NAME"),
        "from_tick,given,panics",
        r#"[{"task": "from_tick", "name": "default", "package": "conductor", "cron": "15 * * * *",
             "timezone": "UTC", "missed": "all", "overlap": "allow"},
            {"task": "given", "name": "morning", "package": "conductor", "cron": "0 6 * * *",
             "timezone": "Europe/Berlin", "missed": "once", "overlap": "allow"}]"#,
    )
    .await?;
    assert_eq!(
        names(&test).await?,
        [
            "from_tick default 15 * * * *",
            "given morning 0 6 * * *",
            "given by hand @daily"
        ]
    );
    // The old version starts again: the code decides, and the dynamic one stays.
    test.drain().await?;
    let names = names(&test).await?;
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&"from_tick default 0 * * * *".to_owned()));
    assert!(names.contains(&"given by hand @daily".to_owned()));
    Ok(())
}
