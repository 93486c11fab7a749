//! Time decides (G20): what came after a deadline did not come, however late a worker looks.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Execution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::run_sql;

const HOUR: Duration = Duration::from_secs(3600);

#[event(name = "time.paid")]
struct Paid {
    order: i64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Payment {
    id: i64,
}

#[task(name = "time.waits")]
async fn waits(ctx: &TaskContext, order: Option<i64>) -> anyhow::Result<String> {
    let wait = ctx.wait_for_event::<Paid>("paid").timeout(HOUR);
    let paid = match order {
        Some(order) => wait.when(Paid::order.eq(order)).await,
        None => wait.await,
    };
    match paid {
        Ok(paid) => Ok(format!("paid {}", paid.order)),
        Err(Error::NoEvent { .. }) => Ok("late".to_owned()),
        Err(error) => Err(error.into()),
    }
}

#[task(name = "time.watches")]
async fn watches(ctx: &TaskContext) -> anyhow::Result<String> {
    let wait = ctx.wait_for_insert::<Payment>("paid", "public.payments");
    match wait.timeout(HOUR).await {
        Ok(paid) => Ok(format!("paid {}", paid.new.map_or(0, |new| new.id))),
        Err(Error::NoRow { .. }) => Ok("late".to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// Three that wait, of which the last one looks for one order alone.
async fn three(test: &TestConductor) -> anyhow::Result<[Execution<Waits>; 3]> {
    let orders = [None, None, Some(7)];
    let mut runs = Vec::new();
    for order in orders {
        runs.push(test.invoke::<Waits>(Waits { order }).await?);
    }
    test.drain().await?;
    runs.try_into().map_err(|_| anyhow::anyhow!("not three"))
}

#[conductor::test]
async fn an_event_behind_the_deadline_is_none(test: TestConductor) -> anyhow::Result<()> {
    let runs = three(&test).await?;
    // No worker is there when the time is over, nor when the event comes.
    test.advance(2 * HOUR).await?;
    test.emit(Paid { order: 7 }).await?;
    run_sql(
        &test,
        "select conductor.emit('time.paid', '{\"order\": 7}')",
    )
    .await?;
    test.drain().await?;
    for run in &runs {
        assert_eq!(run.result().await?, "late");
    }
    Ok(())
}

#[conductor::test]
async fn an_event_in_a_transaction_counts_from_its_call(test: TestConductor) -> anyhow::Result<()> {
    let runs = three(&test).await?;
    test.advance(HOUR / 2).await?;
    run_sql(
        &test,
        "select conductor.emit('time.paid', '{\"order\": 7}')",
    )
    .await?;
    test.advance(HOUR).await?;
    // It lies behind others that came too late.
    run_sql(
        &test,
        "select conductor.emit('time.paid', jsonb_build_object('order', n)) from generate_series(100, 150) n",
    )
    .await?;
    test.emit(Paid { order: 8 }).await?;
    test.drain().await?;
    for run in &runs {
        assert_eq!(run.result().await?, "paid 7");
    }
    Ok(())
}

#[conductor::test]
async fn a_row_behind_the_deadline_is_none(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, "create table payments (id bigint primary key)").await?;
    let late = test.invoke::<Watches>(()).await?;
    test.drain().await?;
    test.advance(2 * HOUR).await?;
    run_sql(&test, "insert into payments values (1)").await?;
    test.drain().await?;
    assert_eq!(late.result().await?, "late");

    let paid = test.invoke::<Watches>(()).await?;
    test.drain().await?;
    test.advance(HOUR / 2).await?;
    run_sql(&test, "insert into payments values (2)").await?;
    test.advance(HOUR).await?;
    run_sql(&test, "insert into payments values (3)").await?;
    test.drain().await?;
    assert_eq!(paid.result().await?, "paid 2");
    Ok(())
}
