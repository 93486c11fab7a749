//! Whose schedules a start changes and takes away.

use conductor::testing::TestConductor;

use super::{HOUR, outputs, ticks, to_half_past, word};
use crate::Tick;

/// This binary, as its schedules know it.
const HERE: &str = "conductor/schedules";
const ALL: &str = "from_tick,given,panics,tick";
/// The schedules of this binary, less one, with another rule, and with one as it was.
const NEXT_VERSION: &str = r#"[
    {"task": "from_tick", "name": "default", "owner": "conductor/schedules", "cron": "15 * * * *",
     "timezone": "UTC", "missed": "all", "overlap": "allow"},
    {"task": "given", "name": "morning", "owner": "conductor/schedules", "cron": "0 6 * * *",
     "timezone": "Europe/Berlin", "missed": "once", "overlap": "allow"}]"#;

/// Declares what another version, or another program, has.
pub(super) async fn deploy(
    test: &TestConductor,
    owner: &str,
    tasks: &str,
    json: &str,
) -> anyhow::Result<()> {
    sqlx::query(
        "select conductor.declare_schedules(array[$1],
             array(select id from conductor.tasks where name = any (string_to_array($2, ','))), $3::jsonb)",
    )
    .bind(owner)
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
    test.schedule::<Tick>("by hand", "@daily", word()).await?;
    // Another service knows nothing of these tasks, and takes nothing away.
    deploy(&test, "elsewhere/elsewhere", "", "[]").await?;
    // Another binary of the same package has one of them, without a schedule.
    deploy(&test, "conductor/other", "given", "[]").await?;
    assert_eq!(test.schedules().await?.len(), 5);
    // A new version: one rule changed, one removed, one as it was.
    deploy(&test, HERE, ALL, NEXT_VERSION).await?;
    assert_eq!(
        names(&test).await?,
        [
            "from_tick default 15 * * * *",
            "given morning 0 6 * * *",
            "tick by hand @daily"
        ]
    );
    // The old version starts again: the code decides, and the dynamic one stays.
    test.drain().await?;
    let names = names(&test).await?;
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&"from_tick default 0 * * * *".to_owned()));
    assert!(names.contains(&"tick by hand @daily".to_owned()));
    Ok(())
}

#[conductor::test]
async fn a_task_that_the_code_no_longer_has_keeps_its_schedule_while_it_lives_elsewhere(
    test: TestConductor,
) -> anyhow::Result<()> {
    let before = test.orchestrator().build()?.start().await?;
    let next = NEXT_VERSION.replace("given", "renamed");
    // The version before is still at work.
    deploy(&test, HERE, "from_tick,panics,tick", &next).await?;
    let living = names(&test).await?;
    assert!(living.contains(&"given evening 0 20 * * *".to_owned()));
    before.stop().await?;
    deploy(&test, HERE, "from_tick,panics,tick", &next).await?;
    assert_eq!(names(&test).await?, ["from_tick default 15 * * * *"]);
    Ok(())
}

#[conductor::test]
async fn a_task_that_moves_to_another_crate_takes_its_schedule_along(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    assert!(test.pause_schedule("from_tick", "default").await?);
    let moved = NEXT_VERSION.replace(HERE, "conductor/library");
    deploy(&test, "conductor/library", "from_tick,given", &moved).await?;
    // Its old crate without it takes away what was left there, and no more.
    deploy(&test, HERE, "panics", "[]").await?;
    assert_eq!(
        names(&test).await?,
        ["from_tick default 15 * * * *", "given morning 0 6 * * *"]
    );
    assert!(test.schedules().await?[0].paused);
    Ok(())
}

#[conductor::test]
async fn a_good_deploy_ends_a_fault(test: TestConductor) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.schedule::<Tick>("by hand", "0 * * * *", word())
        .await?;
    // What a worker does that cannot read the rule.
    sqlx::raw_sql(
        "select conductor.tick(array_agg(id), array_agg(version), array_agg(null::timestamptz),
                               array_agg('no rule'::text), '{}', '{}', '{}', '{}')
           from conductor.schedules",
    )
    .execute(test.pool())
    .await?;
    assert!(test.schedules().await?.iter().all(|s| s.fault.is_some()));
    test.schedule::<Tick>("by hand", "0 * * * *", word())
        .await?;
    test.drain().await?;
    let all = test.schedules().await?;
    assert!(
        all.iter().all(|s| s.fault.is_none() && s.next_at.is_some()),
        "{all:?}"
    );
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 1);
    assert_eq!(ticks(&test, "by hand").await?.len(), 1);
    Ok(())
}
