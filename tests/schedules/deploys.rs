//! Whose schedules a start changes and takes away.

use conductor::testing::TestConductor;

use super::{HOUR, Tick, Ticking, outputs, ticks, word};
use crate::support::{eventually, to_half_past};

/// This binary, as its schedules know it.
const HERE: &str = "conductor/suite";
/// The schedules of this binary, less one, with another rule, and with one as it was.
const NEXT_VERSION: &str = r#"[
    {"task": "from_tick", "name": "default", "owner": "conductor/suite", "cron": "15 * * * *",
     "timezone": "UTC", "missed": "all", "overlap": "allow"},
    {"task": "given", "name": "morning", "owner": "conductor/suite", "cron": "0 6 * * *",
     "timezone": "Europe/Berlin", "missed": "once", "overlap": "allow"}]"#;

/// Declares what another version, or another program, has.
pub(super) async fn deploy(test: &TestConductor, owner: &str, json: &str) -> anyhow::Result<()> {
    sqlx::query("select conductor.declare_schedules(array[$1], $2::jsonb)")
        .bind(owner)
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
async fn a_deploy_changes_its_own_schedules_and_no_others(test: Ticking) -> anyhow::Result<()> {
    test.drain().await?;
    test.schedule::<Tick>("by hand", "@daily", word()).await?;
    // Another service knows nothing of these tasks, and takes nothing away.
    deploy(&test, "elsewhere/elsewhere", "[]").await?;
    // Another binary of the same package has one of them, without a schedule.
    deploy(&test, "conductor/other", "[]").await?;
    assert_eq!(test.schedules().await?.len(), 5);
    // A new version: one rule changed, one removed, one as it was.
    deploy(&test, HERE, NEXT_VERSION).await?;
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
async fn what_a_new_version_drops_goes_with_the_last_process_that_has_it(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    let before = [
        test.orchestrator().build()?.start().await?,
        test.orchestrator().build()?.start().await?,
    ];
    let without_first = NEXT_VERSION.replace("from_tick", "renamed");
    deploy(&test, HERE, &without_first).await?;
    let of = async |task: &str| {
        let mut all = test.schedules().await.unwrap();
        all.retain(|schedule| schedule.task == task);
        all
    };
    assert!(of("from_tick").await[0].retired && !of("given").await[1].retired);
    // Those of before go on; were the new version taken back now, nothing would be lost.
    test.advance(HOUR).await?;
    eventually("the tick", async || {
        outputs(&test, "from_tick").await.unwrap().len() == 1
    })
    .await;
    let [first, last] = before;
    first.stop().await?;
    assert!(of("from_tick").await[0].served);
    last.stop().await?;
    assert!(of("from_tick").await.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_rollback_that_starts_the_old_version_keeps_what_the_new_one_dropped(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    let before = test.orchestrator().build()?.start().await?;
    assert!(test.pause_schedule("given", "morning").await?);
    deploy(&test, HERE, "[]").await?;
    let again = test.orchestrator().build()?.start().await?;
    before.stop().await?;
    let all = test.schedules().await?;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|s| s.served && !s.retired), "{all:?}");
    assert!(all.iter().any(|s| s.paused));
    again.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_task_that_moves_to_another_crate_takes_its_schedule_along(
    test: Ticking,
) -> anyhow::Result<()> {
    test.drain().await?;
    assert!(test.pause_schedule("from_tick", "default").await?);
    let moved = NEXT_VERSION.replace(HERE, "conductor/library");
    deploy(&test, "conductor/library", &moved).await?;
    // Its old crate without it takes away what was left there, and no more.
    deploy(&test, HERE, "[]").await?;
    assert_eq!(
        names(&test).await?,
        ["from_tick default 15 * * * *", "given morning 0 6 * * *"]
    );
    assert!(test.schedules().await?[0].paused);
    Ok(())
}

#[conductor::test]
async fn a_good_deploy_ends_a_fault(test: Ticking) -> anyhow::Result<()> {
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
