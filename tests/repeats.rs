//! What `retry` repeats and what it takes over: nothing that was done is done again, nothing that came is
//! missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Handle, Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{eventually, number, run_sql, start_with};

const HOUR: Duration = Duration::from_secs(3600);

/// What the test tells the handlers, and they it.
#[derive(Debug, Clone, Default)]
struct World {
    repaired: Arc<AtomicBool>,
    charging: Arc<AtomicBool>,
    effects: Arc<AtomicUsize>,
}

impl World {
    fn check(&self) -> anyhow::Result<()> {
        match self.repaired.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(anyhow::anyhow!("broken")).permanent(),
        }
    }

    async fn worker(&self, test: &TestConductor) -> anyhow::Result<Handle> {
        start_with(test, 4, self.clone()).await
    }
}

#[task(name = "repeats.kid")]
async fn kid(ctx: &TaskContext, n: usize) -> anyhow::Result<usize> {
    ctx.sleep("ten hours", 10 * HOUR).await?;
    let effect = async || anyhow::Ok(ctx.state::<World>().effects.fetch_add(1, Ordering::SeqCst));
    ctx.step("effect", effect).await?;
    Ok(n)
}

#[task(name = "repeats.parent")]
async fn parent(ctx: &TaskContext) -> anyhow::Result<usize> {
    let rest = async {
        ctx.sleep("an hour", HOUR).await?;
        ctx.state::<World>().check()
    };
    let one = async { anyhow::Ok(ctx.invoke::<Kid>("kid", Kid { n: 1 }).await?) };
    let all = async {
        let kids = [Kid { n: 2 }, Kid { n: 3 }];
        anyhow::Ok(ctx.invoke_all::<Kid>("kids", kids).await?)
    };
    let (one, all, ()) = tokio::try_join!(one, all, rest)?;
    Ok(one + all.iter().sum::<usize>())
}

async fn ends(test: &TestConductor, id: uuid::Uuid) {
    eventually(
        "its end",
        async || matches!(test.find(id).await, Ok(Some(found)) if found.finished_at.is_some()),
    )
    .await;
}

/// Moves the clock once nothing is due and nothing runs.
async fn later(test: &TestConductor, duration: Duration) -> anyhow::Result<()> {
    let due = "select count(*) from conductor.live_executions where state <> 'suspended' or run_at <= conductor.now()";
    eventually("a rest", async || number(test, due).await == 0).await;
    test.advance(duration).await?;
    eventually("a rest", async || number(test, due).await == 0).await;
    Ok(())
}

#[conductor::test]
async fn a_repeat_takes_over_the_children_that_run(test: TestConductor) -> anyhow::Result<()> {
    let world = World::default();
    let worker = world.worker(&test).await?;
    let run = test.invoke::<Parent>(()).await?;
    let kids = "select count(*) from conductor.live_executions where parent_id is not null";
    eventually("its children", async || number(&test, kids).await == 3).await;
    later(&test, HOUR).await?;
    ends(&test, run.id()).await;
    assert_eq!(run.status().await?, Status::Failed);

    world.repaired.store(true, Ordering::SeqCst);
    let again = test.retry(run.id()).await?.unwrap();
    later(&test, 9 * HOUR).await?;
    ends(&test, again).await;
    assert_eq!(test.execution::<Parent>(again).result().await?, 6);
    assert_eq!(world.effects.load(Ordering::SeqCst), 3);
    let made = "select count(*) from conductor.executions where task = 'repeats.kid'";
    assert_eq!(number(&test, made).await, 3);
    let of =
        format!("select count(*) from conductor.finished_executions where parent_id = '{again}'");
    assert_eq!(number(&test, &of).await, 3);
    worker.stop().await?;
    Ok(())
}

#[task(name = "repeats.impatient", retry(max_attempts = 1))]
async fn impatient(ctx: &TaskContext) -> anyhow::Result<usize> {
    let kid = ctx.invoke::<Kid>("kid", Kid { n: 1 }).timeout(9 * HOUR);
    let kid = async { anyhow::Ok(kid.detach().await?) };
    let rest = async {
        ctx.sleep("an hour", HOUR).await?;
        ctx.state::<World>().check()
    };
    Ok(tokio::try_join!(kid, rest)?.0)
}

/// The time from the failure to the repeat does not count for the timeout of the wait. A detached child goes on when the
/// wait for it has timed out.
#[conductor::test]
async fn a_repeat_waits_anew_for_what_it_takes_over(test: TestConductor) -> anyhow::Result<()> {
    let world = World::default();
    let worker = world.worker(&test).await?;
    let run = test.invoke::<Impatient>(()).await?;
    let kids = "select count(*) from conductor.live_executions where parent_id is not null";
    eventually("its child", async || number(&test, kids).await == 1).await;
    later(&test, HOUR).await?;
    ends(&test, run.id()).await;
    world.repaired.store(true, Ordering::SeqCst);
    // The deadline would be over, and the child is not.
    later(&test, 17 * HOUR / 2).await?;
    let again = test.retry(run.id()).await?.unwrap();
    later(&test, HOUR / 2).await?;
    ends(&test, again).await;
    assert_eq!(test.execution::<Impatient>(again).result().await?, 1);

    // And one that was too late for its parent.
    let run = test.invoke::<Impatient>(()).await?;
    eventually("its child", async || number(&test, kids).await == 1).await;
    later(&test, 9 * HOUR).await?;
    ends(&test, run.id()).await;
    assert_eq!(run.status().await?, Status::Failed);
    let again = test.retry(run.id()).await?.unwrap();
    later(&test, HOUR).await?;
    ends(&test, again).await;
    assert_eq!(test.execution::<Impatient>(again).result().await?, 1);
    assert_eq!(world.effects.load(Ordering::SeqCst), 2);
    worker.stop().await?;
    Ok(())
}

/// One that is being cancelled is of no use to the repeat.
#[conductor::test]
async fn a_repeat_makes_anew_what_was_cancelled(test: TestConductor) -> anyhow::Result<()> {
    let world = World::default();
    world.repaired.store(true, Ordering::SeqCst);
    let worker = world.worker(&test).await?;
    let run = test.invoke::<Parent>(()).await?;
    let kids = "select count(*) from conductor.live_executions where parent_id is not null";
    eventually("its children", async || number(&test, kids).await == 3).await;
    test.cancel(run.id()).await?;
    let again = test.retry(run.id()).await?.unwrap();
    eventually("its children", async || number(&test, kids).await == 3).await;
    later(&test, 10 * HOUR).await?;
    ends(&test, again).await;
    assert_eq!(test.execution::<Parent>(again).result().await?, 6);
    assert_eq!(world.effects.load(Ordering::SeqCst), 3);
    worker.stop().await?;
    Ok(())
}

/// Charges only once somebody has repeated it.
#[task(name = "repeats.charges")]
async fn charges(ctx: &TaskContext) -> anyhow::Result<()> {
    let world = ctx.state::<World>();
    if world.charging.load(Ordering::SeqCst) {
        let charge = async || anyhow::Ok(world.effects.fetch_add(1, Ordering::SeqCst));
        ctx.step("charge", charge).await?;
    }
    world.check()
}

/// Whether `retry` is given the id of the first execution or that of one of its repeats.
#[conductor::test]
async fn a_repeat_goes_on_where_the_last_one_ended(test: TestConductor) -> anyhow::Result<()> {
    let world = World::default();
    let worker = world.worker(&test).await?;
    let run = test.invoke::<Charges>(()).await?;
    ends(&test, run.id()).await;
    world.charging.store(true, Ordering::SeqCst);
    let first = test.retry(run.id()).await?.unwrap();
    ends(&test, first).await;
    // The first one knows nothing of the charge.
    let second = test.retry(run.id()).await?.unwrap();
    ends(&test, second).await;
    assert_eq!(world.effects.load(Ordering::SeqCst), 1);
    world.repaired.store(true, Ordering::SeqCst);
    let third = test.retry(first).await?.unwrap();
    ends(&test, third).await;
    test.execution::<Charges>(third).result().await?;
    assert_eq!(world.effects.load(Ordering::SeqCst), 1);
    // Nor once what has completed would be gone, if it were not a repeat.
    test.advance(8 * 24 * HOUR).await?;
    run_sql(&test, "select conductor.prune(1000)").await?;
    for done in [run.id(), first, second, third] {
        assert_eq!(test.retry(done).await?, None);
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn two_that_ask_at_once_get_one_repeat(test: TestConductor) -> anyhow::Result<()> {
    let world = World::default();
    let worker = world.worker(&test).await?;
    let run = test.invoke::<Charges>(()).await?;
    ends(&test, run.id()).await;
    let first = test.retry(run.id()).await?.unwrap();
    ends(&test, first).await;
    worker.stop().await?;
    let (one, other) = tokio::join!(test.retry(run.id()), test.retry(first));
    assert_eq!(one?, other?);
    let live = "select count(*) from conductor.live_executions";
    assert_eq!(number(&test, live).await, 1);
    Ok(())
}

#[event(name = "repeats.paid")]
struct Paid {
    n: i64,
}

#[task(name = "repeats.hears")]
async fn hears(ctx: &TaskContext) -> anyhow::Result<Vec<i64>> {
    let first = ctx.wait_for_event::<Paid>("first").await?;
    ctx.state::<World>().check()?;
    let second = ctx.wait_for_event::<Paid>("second").await?;
    let third = ctx.wait_for_event::<Paid>("third").await?;
    Ok(vec![first.n, second.n, third.n])
}

#[conductor::test]
async fn a_repeat_hears_what_came_since_the_first_one(test: TestConductor) -> anyhow::Result<()> {
    let world = World::default();
    let worker = world.worker(&test).await?;
    let run = test.invoke::<Hears>(()).await?;
    test.emit(Paid { n: 1 }).await?;
    ends(&test, run.id()).await;
    // While nothing of it lives.
    test.emit(Paid { n: 2 }).await?;
    let broken = test.retry(run.id()).await?.unwrap();
    ends(&test, broken).await;
    test.emit(Paid { n: 3 }).await?;
    world.repaired.store(true, Ordering::SeqCst);
    let again = test.retry(broken).await?.unwrap();
    ends(&test, again).await;
    assert_eq!(test.execution::<Hears>(again).result().await?, [1, 2, 3]);
    worker.stop().await?;
    Ok(())
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Person {
    id: i64,
}

#[task(name = "repeats.joins", retry(max_attempts = 1))]
async fn joins(ctx: &TaskContext) -> anyhow::Result<i64> {
    let joined = ctx.wait_for_insert::<Person>("joined", "public.persons");
    match joined.timeout(HOUR).await {
        Err(error @ Error::NoRow { .. }) => Err(error.into()),
        joined => Ok(joined?.new.map_or(0, |person| person.id)),
    }
}

#[conductor::test]
async fn a_repeat_waits_again_for_a_row(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table persons (id bigint primary key)").await?;
    let run = test.invoke::<Joins>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Failed);
    let again = test.retry(run.id()).await?.unwrap();
    test.drain().await?;
    run_sql(&test, "insert into persons values (7)").await?;
    test.drain().await?;
    assert_eq!(test.execution::<Joins>(again).result().await?, 7);

    // And one that came while nothing of it lived.
    let run = test.invoke::<Joins>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    run_sql(&test, "insert into persons values (8)").await?;
    let again = test.retry(run.id()).await?.unwrap();
    test.drain().await?;
    assert_eq!(test.execution::<Joins>(again).result().await?, 8);
    Ok(())
}
