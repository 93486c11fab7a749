//! Whose clock counts: the database's, in the schedule's zone.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, Utc, Weekday};
use conductor::Missed;
use conductor::testing::TestConductor;

use super::{HOUR, Tick, Ticking, ticks, word};
use crate::support::{eventually, number, run_sql};

/// The database's clock goes hours before or after that of the workers' machine.
#[conductor::test]
async fn a_wrong_clock_of_the_workers_machine_moves_no_tick(test: Ticking) -> anyhow::Result<()> {
    for hours in [9, -18] {
        run_sql(
            &test,
            &format!("select conductor.advance_clock(interval '{hours} hours')"),
        )
        .await?;
        let off = test.now().await? - Utc::now();
        assert!(off.abs() > TimeDelta::hours(8), "{off}");
        let name = format!("off by {hours}");
        let worker = test.orchestrator().build()?.start().await?;
        test.schedule::<Tick>(&*name, "* * * * * *", word())
            .missed(Missed::All)
            .await?;
        eventually("three ticks", async || {
            ticks(&test, &name).await.unwrap().len() >= 3
        })
        .await;
        assert!(test.unschedule::<Tick>(&*name).await?);
        worker.stop().await?;
        let all = ticks(&test, &name).await?;
        assert!(
            all.windows(2)
                .all(|two| two[1] - two[0] == TimeDelta::seconds(1)),
            "{all:?}"
        );
    }
    let early = "select count(*) from conductor.executions
                  where created_at < (trigger->>'scheduled_at')::timestamptz";
    assert_eq!(number(&test, early).await, 0);
    let late = "select count(*) from conductor.executions
                 where created_at > (trigger->>'scheduled_at')::timestamptz + interval '1 hour'";
    assert_eq!(number(&test, late).await, 0);
    Ok(())
}

fn sunday(year: i32, month: u32, nth: u8) -> NaiveDate {
    NaiveDate::from_weekday_of_month_opt(year, month, Weekday::Sun, nth).unwrap()
}

fn last_sunday(year: i32, month: u32) -> NaiveDate {
    let fifth = NaiveDate::from_weekday_of_month_opt(year, month, Weekday::Sun, 5);
    fifth.unwrap_or_else(|| sunday(year, month, 4))
}

/// Noon, two days before, in UTC.
fn shortly_before(day: NaiveDate) -> DateTime<Utc> {
    let noon = NaiveTime::from_hms_opt(12, 0, 0).unwrap();
    (day - Days::new(2)).and_time(noon).and_utc()
}

async fn move_to(test: &TestConductor, to: DateTime<Utc>) -> anyhow::Result<()> {
    test.advance((to - test.now().await?).to_std()?).await?;
    Ok(())
}

/// The ticks of a rule over three days, of which the second one is given.
async fn around(
    test: &TestConductor,
    day: NaiveDate,
    zone: &str,
    rule: &str,
) -> anyhow::Result<Vec<String>> {
    let name = format!("{zone} {rule} {day}");
    // Lived through half a day at a time; the schedule is there before.
    test.schedule::<Tick>(&*name, rule, word())
        .timezone(zone)
        .missed(Missed::All)
        .await?;
    for _ in 0..6 {
        test.advance(HOUR * 12).await?;
        test.drain().await?;
    }
    assert!(test.unschedule::<Tick>(&*name).await?);
    let all = ticks(test, &name).await?;
    Ok(all
        .iter()
        .map(|at| at.format("%H:%M").to_string())
        .collect())
}

#[conductor::test]
async fn daylight_saving_moves_ticks_by_the_rules_of_their_zone(
    test: Ticking,
) -> anyhow::Result<()> {
    let year = test.now().await?.year() + 1;
    // 2:00 becomes 3:00, or 3:00 becomes 2:00; in New York 2:00 becomes 1:00.
    for (day, zone, rule, expected) in [
        (
            sunday(year, 3, 2),
            "America/New_York",
            "30 2 * * *",
            ["07:30", "07:00", "06:30"],
        ),
        (
            last_sunday(year, 3),
            "Europe/Berlin",
            "30 2 * * *",
            ["01:30", "01:00", "00:30"],
        ),
        (
            last_sunday(year, 10),
            "Europe/Berlin",
            "30 2 * * *",
            ["00:30", "00:30", "01:30"],
        ),
        (
            sunday(year, 11, 1),
            "America/New_York",
            "30 1 * * *",
            ["05:30", "05:30", "06:30"],
        ),
    ] {
        move_to(&test, shortly_before(day)).await?;
        let seen = around(&test, day, zone, rule).await?;
        assert_eq!(seen, expected, "{zone} on {day}");
    }
    // A rule of every hour goes on in real time, over both changes.
    for day in [last_sunday(year + 1, 3), last_sunday(year + 1, 10)] {
        move_to(&test, shortly_before(day)).await?;
        let seen = around(&test, day, "Europe/Berlin", "15 * * * *").await?;
        assert_eq!(seen.len(), 72, "{seen:?}");
    }
    Ok(())
}
