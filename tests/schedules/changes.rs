//! What becomes of owed ticks when a schedule is changed while nobody lives.

use chrono::TimeDelta;
use conductor::Missed;

use super::deploys::deploy;
use super::{HOUR, Tick, Ticking, outputs, ticks, word};
use crate::support::to_half_past;

#[conductor::test]
async fn the_ticks_that_an_old_rule_owes_are_settled_by_the_new_words(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    let all = [
        ("skip", Missed::Skip, 0),
        ("once", Missed::Once, 1),
        ("all", Missed::All, 3),
    ];
    for (name, _, _) in all {
        test.schedule::<Tick>(name, "0 * * * *", word()).await?;
    }
    test.drain().await?;
    let began = test.now().await?;
    test.advance(HOUR * 3).await?;
    let yearly = "0 0 1 1 *";
    for (name, missed, _) in all {
        test.schedule::<Tick>(name, yearly, word())
            .missed(missed)
            .await?;
    }
    // After the change no tick of the old rule is owed.
    test.advance(HOUR * 2).await?;
    test.drain().await?;
    for (name, _, expected) in all {
        let made = ticks(&test, name).await?;
        assert_eq!(made.len(), expected, "{name}: {made:?}");
        assert!(made.iter().all(|at| *at - began < TimeDelta::hours(3)));
    }
    for schedule in test.schedules().await? {
        if schedule.dynamic {
            let next = schedule.next_at.unwrap().format("%m-%d %H:%M").to_string();
            assert_eq!((&*schedule.cron, &*next), (yearly, "01-01 00:00"));
        }
    }
    Ok(())
}

#[conductor::test]
async fn a_long_debt_is_settled_to_the_last_tick_and_the_new_rule_follows(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.schedule::<Tick>("long", "* * * * *", word()).await?;
    test.drain().await?;
    let first = test.schedules().await?;
    let first = first.iter().find(|s| s.name == "long").unwrap().next_at;
    test.advance(HOUR * 20).await?;
    let changed = test.now().await?;
    test.schedule::<Tick>("long", "45 * * * *", word())
        .missed(Missed::All)
        .await?;
    test.advance(HOUR * 2).await?;
    test.drain().await?;
    let made = ticks(&test, "long").await?;
    let owed = usize::try_from((changed - first.unwrap()).num_minutes())? + 1;
    assert_eq!(made.len(), owed + 2, "{:?}", made.last());
    assert!(owed >= 1199, "{owed}");
    assert!(made.windows(2).all(|two| two[0] < two[1]));
    assert_eq!(made[owed + 1] - made[owed], TimeDelta::hours(1));
    assert_eq!(made[owed + 1].format("%M").to_string(), "45");
    Ok(())
}

#[conductor::test]
async fn a_deploy_over_owed_ticks_drops_none(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.advance(HOUR * 3).await?;
    let changed = |cron: &str, missed: &str| {
        format!(
            r#"[{{"task": "from_tick", "name": "default", "owner": "conductor/suite",
                 "cron": "{cron}", "timezone": "UTC", "missed": "{missed}", "overlap": "allow"}}]"#
        )
    };
    // A new version declares, and ends before it has ticked. Then this one starts again.
    deploy(&test, "conductor/suite", &changed("@yearly", "once")).await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 3);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 4);
    Ok(())
}

#[conductor::test]
async fn a_change_of_words_before_the_first_look_drops_no_tick(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    sqlx::raw_sql("delete from conductor.schedules")
        .execute(test.pool())
        .await?;
    let declared = r#"[{"task": "from_tick", "name": "default", "owner": "conductor/suite",
        "cron": "0 * * * *", "timezone": "UTC", "missed": "once", "overlap": "skip"}]"#;
    deploy(&test, "conductor/suite", declared).await?;
    test.schedule::<Tick>("by hand", "0 * * * *", word())
        .await?;
    test.advance(HOUR * 3).await?;
    // The code says `all`, and no overlap.
    test.schedule::<Tick>("by hand", "0 * * * *", word())
        .missed(Missed::All)
        .await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 3);
    assert_eq!(ticks(&test, "by hand").await?.len(), 3);
    Ok(())
}

#[conductor::test]
async fn what_was_paused_owes_nothing_of_its_old_rule(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    let hourly = || {
        test.schedule::<Tick>("r", "0 * * * *", word())
            .missed(Missed::All)
    };
    hourly().await?;
    test.drain().await?;
    test.advance(HOUR * 2).await?;
    test.schedule::<Tick>("r", "15 * * * *", word())
        .missed(Missed::All)
        .await?;
    assert!(test.pause_schedule("tick", "r").await?);
    assert!(test.resume_schedule("tick", "r").await?);
    test.drain().await?;
    assert!(ticks(&test, "r").await?.is_empty());
    assert!(test.pause_schedule("tick", "r").await?);
    test.advance(HOUR * 2).await?;
    hourly().await?;
    test.drain().await?;
    assert!(ticks(&test, "r").await?.is_empty());
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(ticks(&test, "r").await?.len(), 1);
    Ok(())
}
