//! `conductor::testing`: databases, drain, states, the attribute.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Filter, Status};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::support::eventually;

#[task]
async fn template_add(_ctx: &TaskContext, a: i64, b: i64) -> anyhow::Result<i64> {
    Ok(a + b)
}

const ADD: TemplateAdd = TemplateAdd { a: 1, b: 2 };

/// Invokes two of itself, until the depth is reached.
#[task]
async fn template_tree(ctx: &TaskContext, depth: u32) -> anyhow::Result<u32> {
    if depth > 0 {
        let client = ctx.state::<Conductor>();
        for _ in 0..2 {
            // Time in which the queue is empty and only this handler is at work.
            tokio::time::sleep(Duration::from_millis(5)).await;
            client
                .invoke::<TemplateTree>(TemplateTree { depth: depth - 1 })
                .await?;
        }
    }
    Ok(depth)
}

#[task(retry(max_attempts = 3, backoff = "1m..1m", jitter = 0))]
async fn template_third_time(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.state::<AtomicU32>().fetch_add(1, Ordering::SeqCst);
    anyhow::ensure!(ctx.attempt() == 3, "not yet");
    Ok(ctx.attempt())
}

async fn database(conductor: &Conductor) -> sqlx::Result<String> {
    sqlx::query_scalar("select current_database()::text")
        .fetch_one(conductor.pool())
        .await
}

#[conductor::test]
async fn each_test_has_a_database_that_goes_with_it(keeper: TestConductor) -> anyhow::Result<()> {
    let (one, two) = (TestConductor::new().await?, TestConductor::new().await?);
    let names = [database(&one).await?, database(&two).await?];
    assert_ne!(names[0], names[1]);
    one.invoke::<TemplateAdd>(ADD).await?;
    assert_eq!(one.list(&Filter::default()).await?.len(), 1);
    assert!(two.list(&Filter::default()).await?.is_empty());

    // A connection that stays open does not keep the database.
    let held = one.pool().acquire().await?;
    let mut other = PgConnection::connect(two.url()).await?;
    drop((one, two));
    assert!(other.ping().await.is_err());
    drop(held);
    let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = any ($1)")
        .bind(&names[..])
        .fetch_one(keeper.pool())
        .await?;
    assert_eq!(left, 0);
    Ok(())
}

#[conductor::test]
async fn twenty_tests_at_once_do_not_meet(keeper: TestConductor) -> anyhow::Result<()> {
    let mut tests = JoinSet::new();
    for n in 0..20 {
        tests.spawn(async move {
            let test = TestConductor::new().await?;
            let run = test
                .invoke::<TemplateAdd>(TemplateAdd { a: n, b: n })
                .await?;
            test.drain().await?;
            assert_eq!(run.result().await?, 2 * n);
            assert_eq!(test.list(&Filter::default()).await?.len(), 1);
            anyhow::Ok(database(&test).await?)
        });
    }
    let mut names = Vec::new();
    while let Some(name) = tests.join_next().await {
        names.push(name??);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
    eventually("all databases dropped", async || {
        let left: i64 =
            sqlx::query_scalar("select count(*) from pg_database where datname = any ($1)")
                .bind(&names)
                .fetch_one(keeper.pool())
                .await
                .unwrap();
        left == 0
    })
    .await;
    Ok(())
}

#[conductor::test]
async fn a_test_may_take_nothing() {
    assert!(TestConductor::new().await.is_ok());
}

#[conductor::test]
async fn a_test_may_take_a_client(conductor: Conductor) -> anyhow::Result<()> {
    let run = conductor.invoke::<TemplateAdd>(ADD).await?;
    Orchestrator::builder(conductor).build()?.drain().await?;
    assert_eq!(run.result().await?, 3);
    Ok(())
}

#[conductor::test]
async fn a_test_may_return_a_result_of_the_library(test: TestConductor) -> conductor::Result<()> {
    test.drain().await
}

#[conductor::test]
#[should_panic(expected = "as it should")]
async fn a_test_may_panic(_test: TestConductor) {
    panic!("as it should");
}

#[conductor::test]
async fn drain_goes_on_while_handlers_make_more(test: TestConductor) -> anyhow::Result<()> {
    let client = (*test).clone();
    let test = test.state(client);
    test.invoke::<TemplateTree>(TemplateTree { depth: 6 })
        .await?;
    test.drain().await?;
    let all = Filter {
        limit: 1000,
        ..Filter::default()
    };
    let found = test.list(&all).await?;
    assert_eq!(found.len(), 127);
    assert!(found.iter().all(|info| info.state == Status::Completed));
    Ok(())
}

#[conductor::test]
async fn drain_leaves_what_is_due_later(test: TestConductor) -> anyhow::Result<()> {
    let test = test.state(AtomicU32::new(0));
    let run = test.invoke::<TemplateThirdTime>(()).await?;
    for attempts in 1..=3 {
        assert_eq!(run.status().await?, Status::Pending);
        test.drain().await?;
        assert_eq!(test.failures(run.id()).await?.len(), attempts.min(2));
        test.advance(Duration::from_secs(61)).await?;
    }
    assert_eq!(run.result().await?, 3);
    Ok(())
}

#[conductor::test]
async fn a_running_worker_hears_of_the_clock(test: TestConductor) -> anyhow::Result<()> {
    let worker = test.orchestrator().build()?.start().await?;
    let run = test
        .invoke::<TemplateAdd>(ADD)
        .delay(Duration::from_secs(30 * 24 * 3600))
        .await?;
    worker.drained().await?;
    assert_eq!(run.status().await?, Status::Pending);
    test.advance(Duration::from_secs(30 * 24 * 3600)).await?;
    assert_eq!(run.result().await?, 3);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn the_clocks_of_two_tests_are_two(test: TestConductor) -> anyhow::Result<()> {
    let other = TestConductor::new().await?;
    test.advance(Duration::from_secs(24 * 3600)).await?;
    let now = async |client: &Conductor| {
        sqlx::query_scalar::<_, f64>(
            "select (extract(epoch from conductor.now() - clock_timestamp()) / 3600)::float8",
        )
        .fetch_one(client.pool())
        .await
    };
    assert!((now(&test).await? - 24.0).abs() < 0.01);
    assert!(now(&other).await?.abs() < 0.01);
    Ok(())
}
