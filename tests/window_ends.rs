//! The ends of a window are where the database's clock says, whatever a process takes it for.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Status};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{eventually, info, session, soon};

#[task(name = "window-ends.night", window = "22:00-06:00")]
async fn window_ends_night(ctx: &TaskContext) -> anyhow::Result<u32> {
    let one: u32 = ctx.step("one", || async { anyhow::Ok(1) }).await?;
    ctx.checkpoint().await?;
    Ok(one + 1)
}

#[task(name = "window-ends.any")]
async fn window_ends_any(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

/// A worker whose estimate of the clock stands where it stood when it started: it hears of no shift,
/// and the scheduler, which looks every few seconds, stands before a lock.
struct Apart {
    worker: Handle,
    lock: PgConnection,
}

impl Apart {
    /// The worker believes the first time, the database's clock shows the second.
    async fn start(test: &TestConductor, believes: &str, shows: &str) -> anyhow::Result<Self> {
        shift(test, believes).await?;
        let worker = test.orchestrator().build()?.start().await?;
        let mut lock = session(test).await?;
        lock.execute("begin").await?;
        lock.execute("lock table conductor.schedules in access exclusive mode")
            .await?;
        shift(test, shows).await?;
        // A claim under way has read the time before.
        let any = test.invoke::<WindowEndsAny>(()).await?;
        soon("a claim", any.result()).await?;
        Ok(Self { worker, lock })
    }

    async fn end(self) -> anyhow::Result<()> {
        self.lock.close().await?;
        Ok(self.worker.stop().await?)
    }
}

/// Moves the clock and tells nobody.
async fn shift(test: &TestConductor, to: &str) -> anyhow::Result<()> {
    let to: DateTime<Utc> = to.parse()?;
    sqlx::query("update conductor.clock set shift = $1 - clock_timestamp()")
        .bind(to)
        .execute(test.pool())
        .await?;
    Ok(())
}

#[conductor::test]
async fn one_that_is_ahead_claims_nothing_before_the_opening(
    test: TestConductor,
) -> anyhow::Result<()> {
    let apart = Apart::start(&test, "2026-03-02T22:30:00Z", "2026-03-02T21:30:00Z").await?;
    let run = test.invoke::<WindowEndsNight>(()).await?;
    eventually("a look at it", || async {
        let info = info(&test, run.id()).await.unwrap();
        info.claim > 0 || info.run_at.is_some_and(|at| at > info.created_at)
    })
    .await;
    let waiting = info(&test, run.id()).await?;
    assert_eq!((waiting.state, waiting.claim), (Status::Pending, 0));
    assert_eq!(waiting.run_at, Some("2026-03-02T22:00:00Z".parse()?));
    apart.end().await
}

#[conductor::test]
async fn one_that_is_behind_runs_what_it_may_and_gives_nothing_back(
    test: TestConductor,
) -> anyhow::Result<()> {
    let apart = Apart::start(&test, "2026-03-02T21:30:00Z", "2026-03-02T22:30:00Z").await?;
    let run = test.invoke::<WindowEndsNight>(()).await?;
    assert_eq!(soon("its end", run.result()).await?, 2);
    assert_eq!(info(&test, run.id()).await?.claim, 1);
    apart.end().await
}

#[conductor::test]
async fn one_that_is_behind_claims_nothing_after_the_closing(
    test: TestConductor,
) -> anyhow::Result<()> {
    let apart = Apart::start(&test, "2026-03-03T05:30:00Z", "2026-03-03T06:30:00Z").await?;
    let run = test.invoke::<WindowEndsNight>(()).await?;
    // What is behind it in the queue is reached all the same.
    let any = test.invoke::<WindowEndsAny>(()).await?;
    soon("the other's end", any.result()).await?;
    let waiting = info(&test, run.id()).await?;
    assert_eq!((waiting.state, waiting.claim), (Status::Pending, 0));
    // Once the estimate is right again, it waits for the next opening.
    let Apart { worker, lock } = apart;
    lock.close().await?;
    eventually("its opening", || async {
        let at = info(&test, run.id()).await.unwrap().run_at.unwrap();
        at == "2026-03-03T22:00:00Z".parse::<DateTime<Utc>>().unwrap()
    })
    .await;
    worker.stop().await?;
    Ok(())
}

/// A claim of this window's task alone, as a worker sends it.
async fn claimed(
    test: &TestConductor,
    opens: DateTime<Utc>,
    closes: DateTime<Utc>,
) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(
        "with worker as (
             select q.id as queue, array_agg(t.id) as tasks from conductor.tasks t
               join conductor.queues q on q.id = t.queue_id
              where t.name = 'window-ends.night' group by q.id
         ), orchestrator as (
             select conductor.start_orchestrator('', 1, array[w.queue], w.tasks, interval '1 minute') as id
               from worker w
         )
         select count(c.id) from worker w, orchestrator o,
                conductor.claim(o.id, w.queue, w.tasks, 10, true, w.tasks, array[$1], array[$2]) c",
    )
    .bind(opens)
    .bind(closes)
    .fetch_one(test.pool())
    .await?)
}

#[conductor::test]
async fn a_window_holds_its_opening_and_not_its_closing(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<WindowEndsNight>(()).await?;
    let now = test.now().await?;
    let (second, hour) = (TimeDelta::seconds(1), TimeDelta::hours(1));
    // It has just closed, and nothing is said of the next opening: it stays where it is.
    assert_eq!(claimed(&test, now - hour, now).await?, 0);
    assert!(!postponed(&test).await?);
    // It is about to open.
    let opens = now + Duration::from_secs(2);
    assert_eq!(claimed(&test, opens, now + hour).await?, 0);
    assert!(postponed(&test).await?);
    assert_eq!(info(&test, run.id()).await?.run_at, Some(opens));
    test.advance(Duration::from_secs(2)).await?;
    assert_eq!(claimed(&test, opens, now + hour + second).await?, 1);
    assert!(!postponed(&test).await?);
    Ok(())
}

async fn postponed(test: &TestConductor) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar("select postponed from conductor.live")
        .fetch_one(test.pool())
        .await?)
}
