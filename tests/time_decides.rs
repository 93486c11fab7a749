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

#[event(name = "time.said")]
struct Said {
    yes: bool,
}

/// What is over first wins, wherever it stands; the others keep what they were not given.
#[task(name = "time.races")]
async fn races(ctx: &TaskContext, way: String) -> anyhow::Result<String> {
    let said = async |key: &str, yes: bool| {
        ctx.wait_for_event::<Said>(key)
            .when(Said::yes.eq(yes))
            .await
    };
    let an_hour = async |key: &str| {
        ctx.sleep(key, HOUR).await?;
        anyhow::Ok("an hour".to_owned())
    };
    let race = ctx.race("first");
    let first = match way.as_str() {
        "events" => {
            let yes = async { said("yes", true).await.map(|_| "yes".to_owned()) };
            let no = async { said("no", false).await.map(|_| "no".to_owned()) };
            race.branch(yes).branch(no).await?
        }
        "sleep first" => {
            let paid = async {
                ctx.wait_for_event::<Paid>("paid").await?;
                anyhow::Ok("paid".to_owned())
            };
            race.branch(an_hour("an hour")).branch(paid).await?
        }
        "event first" => {
            let paid = async {
                ctx.wait_for_event::<Paid>("paid").await?;
                anyhow::Ok("paid".to_owned())
            };
            race.branch(paid).branch(an_hour("an hour")).await?
        }
        "sleeps" => {
            let two = async {
                ctx.step("one", async || anyhow::Ok(1)).await?;
                ctx.sleep("two hours", 2 * HOUR).await?;
                anyhow::Ok("two hours".to_owned())
            };
            race.branch(two).branch(an_hour("an hour")).await?
        }
        _ => {
            let row = async {
                ctx.wait_for_insert::<Payment>("row", "public.payments")
                    .await?;
                anyhow::Ok("row".to_owned())
            };
            race.branch(an_hour("an hour")).branch(row).await?
        }
    };
    if way == "events" {
        // It lost, and is there for who waits for it next.
        said("yes after all", true).await?;
        return Ok(format!("{first}, then yes"));
    }
    Ok(first)
}

/// One branch does more behind its wait, and has lost before that.
#[task(name = "time.books")]
async fn books(ctx: &TaskContext) -> anyhow::Result<Vec<String>> {
    let booked = async {
        let paid = ctx.wait_for_event::<Paid>("paid").await?;
        ctx.step("book", async || {
            anyhow::Ok(format!("booked {}", paid.order))
        })
        .await
    };
    let late = async {
        ctx.sleep("an hour", HOUR).await?;
        anyhow::Ok("late".to_owned())
    };
    let first = ctx.race("first").branch(booked).branch(late).await?;
    let second = ctx.wait_for_event::<Paid>("paid after all").await?;
    Ok(vec![first, format!("paid {}", second.order)])
}

#[conductor::test]
async fn what_came_to_a_branch_that_lost_is_there_for_the_next_wait(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<Books>(()).await?;
    test.drain().await?;
    test.advance(HOUR / 2).await?;
    test.emit(Paid { order: 1 }).await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, ["late", "paid 1"]);
    Ok(())
}

async fn racing(test: &TestConductor, way: &str) -> anyhow::Result<Execution<Races>> {
    let way = way.to_owned();
    let run = test.invoke::<Races>(Races { way }).await?;
    test.drain().await?;
    Ok(run)
}

#[conductor::test]
async fn the_earlier_event_wins_a_race(test: TestConductor) -> anyhow::Result<()> {
    let run = racing(&test, "events").await?;
    test.emit(Said { yes: false }).await?;
    test.advance(HOUR).await?;
    test.emit(Said { yes: true }).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "no, then yes");
    Ok(())
}

#[conductor::test]
async fn a_payment_behind_the_deadline_loses_a_race(test: TestConductor) -> anyhow::Result<()> {
    let [first, second] = ["event first", "sleep first"];
    let late = [racing(&test, first).await?, racing(&test, second).await?];
    test.advance(2 * HOUR).await?;
    test.emit(Paid { order: 1 }).await?;
    test.drain().await?;
    for run in late {
        assert_eq!(run.result().await?, "an hour");
    }
    let paid = [racing(&test, first).await?, racing(&test, second).await?];
    test.advance(HOUR / 2).await?;
    run_sql(
        &test,
        "select conductor.emit('time.paid', '{\"order\": 2}')",
    )
    .await?;
    test.advance(2 * HOUR).await?;
    test.drain().await?;
    for run in paid {
        assert_eq!(run.result().await?, "paid");
    }
    Ok(())
}

#[conductor::test]
async fn the_earlier_sleep_and_the_earlier_row_win_a_race(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(&test, "create table payments (id bigint primary key)").await?;
    let sleeps = racing(&test, "sleeps").await?;
    let row = racing(&test, "row").await?;
    test.advance(HOUR / 2).await?;
    run_sql(&test, "insert into payments values (1)").await?;
    test.advance(3 * HOUR).await?;
    test.drain().await?;
    assert_eq!(sleeps.result().await?, "an hour");
    assert_eq!(row.result().await?, "row");
    Ok(())
}
