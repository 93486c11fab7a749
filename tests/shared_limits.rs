//! G11 for limits that several tasks share: `concurrency(limit = …, name = …)`, `rate_limit(…, name = …)`.

use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Reason, Status};
use serde_json::json;

use crate::support::{Gate, Process, eventually, info, number, run_sql, start_with};

#[task(name = "shared.charge", concurrency(limit = 2, name = "shared-stripe"))]
async fn charge(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(n)
}

#[task(name = "shared.refund", concurrency(limit = 2, name = "shared-stripe"))]
async fn refund(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(n)
}

/// The same key at two places of the payloads; and a limit of its own.
#[task(
    name = "shared.mail",
    concurrency(limit = 1, name = "shared-customer", key = payload.customer),
    concurrency = 3
)]
async fn mail(ctx: &TaskContext, customer: String) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    anyhow::ensure!(!customer.is_empty(), "nobody");
    Ok(())
}

#[task(
    name = "shared.call",
    concurrency(limit = 1, name = "shared-customer", key = payload.to.customer)
)]
async fn call(ctx: &TaskContext, to: To) -> anyhow::Result<String> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(to.customer)
}

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct To {
    customer: String,
}

#[task(
    name = "shared.fast",
    rate_limit("6/6h", burst = 2, name = "shared-rate")
)]
async fn fast(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(
    name = "shared.slow",
    rate_limit("6/6h", burst = 2, name = "shared-rate")
)]
async fn slow(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

/// Two of them, which note when they run.
#[task(name = "shared.left", concurrency(limit = 3, name = "shared-crash"))]
async fn left(ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    note(ctx, n).await
}

#[task(name = "shared.right", concurrency(limit = 3, name = "shared-crash"))]
async fn right(ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    note(ctx, n).await
}

async fn note(ctx: &TaskContext, n: i64) -> anyhow::Result<()> {
    let conductor = ctx.state::<Conductor>();
    let pool = conductor.pool();
    // Of those that live: a process that is killed here holds its session no longer.
    let mut tx = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock_shared(77)")
        .execute(&mut *tx)
        .await?;
    // Behind the lock, so that the last of those that run at once counts all of them.
    sqlx::query("insert into shared_now (n, many) select $1, count(*) from pg_locks where locktype = 'advisory' and objid = 77 and granted and database = (select oid from pg_database where datname = current_database())")
        .bind(n)
        .execute(pool)
        .await?;
    // The first ones wait until as many as may run at once were seen, however slow the machine is.
    while sqlx::query("select from shared_now where many >= 3 limit 1")
        .fetch_optional(pool)
        .await?
        .is_none()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(3)).await;
    tx.commit().await?;
    Ok(())
}

const PARKED: &str =
    "select count(*) from conductor.live_executions where queue_id < 0 and state <> 'running'";
const LIVE: &str = "select count(*) from conductor.live_executions";

async fn parked(test: &TestConductor, count: i64) {
    eventually("what waits for a slot", || async {
        number(test, PARKED).await == count
    })
    .await;
}

#[conductor::test]
async fn the_tasks_together_have_no_more_than_the_limit_in_all_workers(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let first = start_with(&test, 10, Arc::clone(&gate)).await?;
    let second = start_with(&test, 10, Arc::clone(&gate)).await?;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(test.invoke::<Charge>(Charge { n }).await?.id());
        ids.push(test.invoke::<Refund>(Refund { n }).await?.id());
    }
    gate.entered(2).await;
    parked(&test, 6).await;
    let mut waits = None;
    for id in &ids {
        let why = test.why(*id).await?;
        if let Reason::Limit {
            held, executions, ..
        } = &why.reason
        {
            assert_eq!((*held, executions.len()), (2, 2), "{why}");
            assert!(
                why.text
                    .contains("of the tasks that share \"shared-stripe\""),
                "{why}"
            );
            waits = Some(*id);
        }
    }
    assert!(waits.is_some());
    for _ in 0..6 {
        assert_eq!(gate.unseen(), 0);
        gate.open(1);
        gate.entered(1).await;
    }
    gate.open(2);
    for id in ids {
        eventually("its end", || async {
            info(&test, id).await.unwrap().state == Status::Completed
        })
        .await;
    }
    let held = "select count(*) from conductor.lanes where holders <> '{}' or parked";
    eventually("free lanes", || async { number(&test, held).await == 0 }).await;
    first.stop().await?;
    second.stop().await?;
    Ok(())
}

#[conductor::test]
async fn each_key_is_shared_wherever_it_stands_in_the_payloads(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let customer = |name: &str| name.to_owned();
    for name in ["a", "b"] {
        test.invoke::<Mail>(Mail {
            customer: customer(name),
        })
        .await?;
        test.invoke::<Call>(Call {
            to: To {
                customer: customer(name),
            },
        })
        .await?;
    }
    for name in ["c", "d"] {
        test.invoke::<Mail>(Mail {
            customer: customer(name),
        })
        .await?;
    }
    // One of each customer, and three mails at once: a, b and c; d waits for the task's own limit.
    gate.entered(3).await;
    parked(&test, 3).await;
    assert_eq!(gate.unseen(), 0);
    gate.open(6);
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_rate_is_shared(test: TestConductor) -> anyhow::Result<()> {
    for _ in 0..3 {
        test.invoke::<Fast>(()).await?;
        test.invoke::<Slow>(()).await?;
    }
    test.drain().await?;
    let done = "select count(*) from conductor.finished_executions";
    assert_eq!(number(&test, done).await, 2);
    for more in 3..=6 {
        test.advance(Duration::from_secs(3600)).await?;
        test.drain().await?;
        assert_eq!(number(&test, done).await, more);
    }
    Ok(())
}

#[conductor::test]
async fn it_holds_over_crashes(test: TestConductor) -> anyhow::Result<()> {
    run_sql(
        &test,
        "create table shared_now (n bigint not null, many bigint not null)",
    )
    .await?;
    let mut processes = [Process::start(&test)?, Process::start(&test)?];
    for n in 0..50 {
        test.invoke::<Left>(Left { n }).await?;
        test.invoke::<Right>(Right { n }).await?;
    }
    for kill in 0..3 {
        eventually("some ends", || async {
            number(&test, "select count(*) from conductor.finished_executions").await
                > 15 * (kill + 1)
        })
        .await;
        let process = &mut processes[usize::try_from(kill)? % 2];
        process.kill()?;
        *process = Process::start(&test)?;
    }
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    // At most three at once; that three were is what the first bodies wait for.
    assert_eq!(
        number(&test, "select count(*) from shared_now where many > 3").await,
        0
    );
    Ok(())
}

/// Declares limits as another version of the code would.
async fn deploy(test: &TestConductor, limits: serde_json::Value) -> anyhow::Result<()> {
    sqlx::query("select conductor.declare_limits($1)")
        .bind(limits)
        .execute(test.pool())
        .await?;
    Ok(())
}

#[conductor::test]
async fn a_deploy_changes_it_and_takes_a_task_out_of_it(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 20, Arc::clone(&gate)).await?;
    for n in 0..4 {
        test.invoke::<Charge>(Charge { n }).await?;
        test.invoke::<Refund>(Refund { n }).await?;
    }
    gate.entered(2).await;
    parked(&test, 6).await;
    let limit = |amount: i32| json!([{"kind": "concurrency", "name": "shared-stripe", "path": [], "amount": amount, "per_ms": null}]);
    // One of the tasks says it for both.
    deploy(
        &test,
        json!([{"name": "shared.charge", "limits": limit(4)}]),
    )
    .await?;
    gate.entered(2).await;
    parked(&test, 4).await;
    assert_eq!(gate.unseen(), 0);
    // Refunds go free; charges wait for the four that have slots.
    deploy(&test, json!([{"name": "shared.refund", "limits": []}])).await?;
    gate.entered(2).await;
    parked(&test, 2).await;
    deploy(&test, json!([{"name": "shared.charge", "limits": []}])).await?;
    gate.entered(2).await;
    gate.open(8);
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    let left = "select (select count(*) from conductor.lanes)
                     + (select count(*) from conductor.limits where name = 'shared-stripe')";
    assert_eq!(number(&test, left).await, 0);
    worker.stop().await?;
    Ok(())
}
