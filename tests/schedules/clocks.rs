//! Machines whose wall clocks are wrong.
#![cfg(target_os = "linux")]

use chrono::{DateTime, TimeDelta, Utc};
use conductor::Missed;
use uuid::Uuid;

use super::processes::{Process, assert_whole};
use super::{HOUR, Tick, Ticking, outputs, ticks, word};
use crate::support::{eventually, number, to_half_past};

#[conductor::test]
async fn processes_whose_clocks_are_hours_wrong_tick_by_the_databases(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    test.schedule::<Tick>("wrong", "0 * * * *", word())
        .missed(Missed::All)
        .await?;
    let began = Utc::now();
    for (round, hours) in [(1, 9), (2, -18)] {
        let worker = Process::with_wrong_clock(&test, hours).await;
        for n in 1..=6 {
            let expected = (round - 1) * 6 + n;
            test.advance(HOUR).await?;
            eventually("the ticks", async || {
                ticks(&test, "wrong").await.unwrap().len() == expected
                    && outputs(&test, "from_tick").await.unwrap().len() == expected
            })
            .await;
        }
        drop(worker);
    }
    assert_whole(&ticks(&test, "wrong").await?);
    // By the database's clock, each was made and claimed after its time, and before the next one.
    let untimely = "select count(*) from conductor.executions e,
                           lateral (select (e.trigger->>'scheduled_at')::timestamptz as at) t
                     where e.task in ('tick', 'from_tick')
                       and (e.created_at not between t.at and t.at + interval '1 hour'
                            or e.claimed_at not between t.at and t.at + interval '1 hour')";
    assert_eq!(number(&test, untimely).await, 0);
    // An id tells the clock of the process that made it.
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select id from conductor.executions where trigger->>'name' = 'wrong'
          order by (trigger->>'scheduled_at')::timestamptz",
    )
    .fetch_all(test.pool())
    .await?;
    for (ids, hours) in ids.chunks(6).zip([9, -18]) {
        for id in ids {
            let (seconds, _) = id.get_timestamp().unwrap().to_unix();
            let made = DateTime::from_timestamp(seconds.try_into()?, 0).unwrap();
            let off = made - began - TimeDelta::hours(hours);
            assert!(off.abs() < TimeDelta::minutes(30), "{made}");
        }
    }
    Ok(())
}
