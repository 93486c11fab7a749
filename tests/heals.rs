//! The server's clock was ahead for a while: nothing that has a bound lies further ahead of now than that.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Status};

use crate::support::{eventually, number, run_sql, soon};

const HOUR: Duration = Duration::from_secs(3600);

#[task(name = "heals.job")]
async fn heals_job(_ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    Ok(n)
}

#[task(name = "heals.rated", rate_limit = "1/1s")]
async fn heals_rated(_ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    Ok(n)
}

#[event(name = "heals.paid")]
struct HealsPaid {
    n: u32,
}

#[task(name = "heals.waits")]
async fn heals_waits(ctx: &TaskContext) -> anyhow::Result<u32> {
    let paid = ctx
        .wait_for_event::<HealsPaid>("paid")
        .timeout(HOUR)
        .await?;
    Ok(paid.n)
}

/// A worker whose heartbeats, and with them the chores, come quickly.
async fn quick(test: &TestConductor) -> anyhow::Result<Handle> {
    let started = test
        .orchestrator()
        .heartbeat(Duration::from_millis(200), Duration::from_secs(20))
        .build()?
        .start()
        .await?;
    Ok(started)
}

/// The chore that looks for such times is due: it comes once a minute.
async fn look(test: &TestConductor) -> anyhow::Result<()> {
    let due = "update conductor.chores set due_at = now() - interval '1 s' where name = 'times'";
    Ok(run_sql(test, due).await?)
}

/// Waits until no row answers a condition.
async fn none(test: &TestConductor, of: &str) {
    let count = format!("select count(*) from conductor.{of}");
    eventually(of, || async { number(test, &count).await == 0 }).await;
}

#[conductor::test]
async fn chores_are_due_again(test: TestConductor) -> anyhow::Result<()> {
    let worker = quick(&test).await?;
    let run = test.invoke::<HealsJob>(HealsJob { n: 1 }).await?;
    soon("a job", run.result()).await?;
    run_sql(
        &test,
        "update conductor.chores set due_at = due_at + interval '1 year';
         update conductor.finished_executions set expires_at = now() - interval '1 s'",
    )
    .await?;
    look(&test).await?;
    none(
        &test,
        "chores where due_at > clock_timestamp() + interval '2 days'",
    )
    .await;
    none(&test, "finished_executions").await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_dead_process_does_not_keep_its_lease_and_a_living_one_keeps_its_own(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = quick(&test).await?;
    let job = test
        .invoke::<HealsJob>(HealsJob { n: 1 })
        .delay(HOUR)
        .await?;
    let mine = number(&test, "select max(id) from conductor.orchestrators").await;
    run_sql(
        &test,
        "update conductor.orchestrators set lease_until = lease_until + interval '1 year';
         with dead as (
             insert into conductor.orchestrators (
                    host, pid, queue_ids, task_ids, started_at, lease_until, lease)
             values ('gone', 1, '{}', '{}', now(), now() + interval '1 hour', '1 s') returning id)
         update conductor.live_executions set state = 'running', claim = 1, run_at = now(), orchestrator_id = dead.id
           from dead",
    )
    .await?;
    look(&test).await?;
    assert_eq!(soon("the job", job.result()).await?, 1);
    assert_eq!(test.find(job.id()).await?.unwrap().crashes, 1);
    none(
        &test,
        "orchestrators where lease_until > clock_timestamp() + lease + interval '1 s'",
    )
    .await;
    let still = format!("select count(*) from conductor.orchestrators where id = {mine}");
    assert_eq!(number(&test, &still).await, 1);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_throttles_slot_ends(test: TestConductor) -> anyhow::Result<()> {
    let slot = async || {
        test.invoke::<HealsJob>(HealsJob { n: 1 })
            .throttle(HOUR)
            .await
    };
    let first = slot().await?;
    assert_eq!(slot().await?.id(), first.id());
    run_sql(
        &test,
        "update conductor.throttles set until = until + interval '1 year'",
    )
    .await?;
    let second = slot().await?;
    assert_ne!(second.id(), first.id());
    assert_eq!(slot().await?.id(), second.id());
    run_sql(
        &test,
        "update conductor.throttles set until = until + interval '1 year'",
    )
    .await?;
    look(&test).await?;
    let worker = quick(&test).await?;
    none(&test, "throttles").await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn schedules_tick(test: TestConductor) -> anyhow::Result<()> {
    run_sql(
        &test,
        "select conductor.declare_missing('[]');
         select conductor.know_tasks('{heals.job}');
         select conductor.schedule('heals.job', 'often', '*/5 * * * *', '{\"n\": 1}');
         select conductor.schedule('heals.job', 'yearly', '0 0 1 1 *', '{\"n\": 2}')",
    )
    .await?;
    let worker = quick(&test).await?;
    none(&test, "schedules where next_at is null").await;
    let yearly =
        "select extract(epoch from next_at)::bigint from conductor.schedules where name = 'yearly'";
    let planned = number(&test, yearly).await;
    run_sql(
        &test,
        "update conductor.schedules set next_at = next_at + interval '1 year', planned_from = now() + interval '1 year'
          where name = 'often'",
    )
    .await?;
    none(
        &test,
        "schedules where name = 'often' and coalesce(next_at > now() + interval '6 minutes', true)",
    )
    .await;
    assert_eq!(number(&test, yearly).await, planned);
    test.advance(Duration::from_secs(300)).await?;
    eventually("a tick", || async {
        number(
            &test,
            "select count(*) from conductor.executions where task = 'heals.job'",
        )
        .await
            >= 1
    })
    .await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_rate_goes_on(test: TestConductor) -> anyhow::Result<()> {
    let worker = quick(&test).await?;
    let first = test.invoke::<HealsRated>(HealsRated { n: 1 }).await?;
    soon("the first", first.result()).await?;
    run_sql(
        &test,
        "update conductor.lanes set next_at = now() + interval '1 year'",
    )
    .await?;
    let second = test.invoke::<HealsRated>(HealsRated { n: 2 }).await?;
    eventually("the second", || async {
        look(&test).await.unwrap();
        second.status().await.unwrap() == Status::Completed
    })
    .await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn events_come_now(test: TestConductor) -> anyhow::Result<()> {
    let worker = quick(&test).await?;
    test.emit(HealsPaid { n: 1 }).await?;
    none(&test, "event_inbox").await;
    run_sql(
        &test,
        "update conductor.events set emitted_at = emitted_at + interval '1 year'",
    )
    .await?;
    let run = test.invoke::<HealsWaits>(()).await?;
    eventually("the wait", || async {
        run.status().await.unwrap() == Status::Suspended
    })
    .await;
    test.emit(HealsPaid { n: 2 }).await?;
    assert_eq!(soon("the event", run.result()).await?, 2);
    none(
        &test,
        "events where emitted_at > conductor.now() + interval '1 minute'",
    )
    .await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn an_upgrade_that_nobody_waits_for_keeps_nobody_from_starting(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(
        &test,
        "insert into conductor.upgrade (version, until) values (999, now() + interval '1 year')",
    )
    .await?;
    let worker = quick(&test).await?;
    worker.stop().await?;
    Ok(())
}

/// What was invoked, or had failed, while the clock was ahead is as far from now as it was from then.
#[conductor::test]
async fn what_was_made_in_the_future_is_due(test: TestConductor) -> anyhow::Result<()> {
    let at_once = test.invoke::<HealsJob>(HealsJob { n: 1 }).await?;
    let failed = test.invoke::<HealsJob>(HealsJob { n: 2 }).await?;
    let planned = test
        .invoke::<HealsJob>(HealsJob { n: 3 })
        .delay(Duration::from_secs(30 * 24 * 3600))
        .await?;
    run_sql(
        &test,
        &format!(
            "update conductor.live_executions set created_at = created_at + interval '1 year', run_at = run_at + interval '1 year'
              where id = '{0}';
             update conductor.live_executions set failures = 1, run_at = now() + interval '1 year 1 s' where id = '{1}';
             insert into conductor.failures (execution_id, attempt, failed_at, error)
             values ('{1}', 1, now() + interval '1 year', 'x');
             update conductor.chores set due_at = due_at + interval '1 year'",
            at_once.id(),
            failed.id()
        ),
    )
    .await?;
    look(&test).await?;
    let worker = quick(&test).await?;
    assert_eq!(soon("the one", at_once.result()).await?, 1);
    assert_eq!(soon("the other", failed.result()).await?, 2);
    assert_eq!(planned.status().await?, Status::Pending);
    let days =
        "select extract(days from max(run_at) - now())::bigint from conductor.live_executions";
    assert!((29..=30).contains(&number(&test, days).await));
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_watch_was_used_no_later_than_now(test: TestConductor) -> anyhow::Result<()> {
    run_sql(
        &test,
        "create table heals_table (id integer);
         select conductor.watch_rows('heals_table', 'insert', '{id}', null, true, '1 s');
         update conductor.row_watches set used_at = used_at + interval '1 year'",
    )
    .await?;
    look(&test).await?;
    let worker = quick(&test).await?;
    none(
        &test,
        "row_watches where used_at > conductor.now() + interval '1 minute'",
    )
    .await;
    worker.stop().await?;
    Ok(())
}
