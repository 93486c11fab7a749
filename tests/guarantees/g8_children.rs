//! G8: a parent gets its child's outcome, whatever it is, and keeps it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[task(name = "g8.child", queue = "g8-other", retry(max_attempts = 1))]
async fn g8_child(ctx: &TaskContext, n: i64, days: u32) -> anyhow::Result<i64> {
    anyhow::ensure!(n >= 0, "{n} is negative");
    if days > 0 {
        ctx.sleep("days", DAY * days).await?;
    }
    Ok(n * 2)
}

#[task(name = "g8.parent", retry(max_attempts = 1))]
async fn g8_parent(ctx: &TaskContext, n: i64, days: u32) -> anyhow::Result<String> {
    let child = ctx
        .invoke::<G8Child>("child", G8Child { n, days })
        .timeout(DAY * 3)
        .await;
    // A replay must see the same.
    ctx.sleep("a while", DAY).await?;
    Ok(match child {
        Ok(twice) => format!("ok {twice}"),
        Err(Error::Failed { error, task, .. }) => format!("failed {task} {error}"),
        Err(Error::Cancelled { reason, .. }) => format!("cancelled {}", reason.unwrap_or_default()),
        Err(Error::TimedOut { .. }) => "timed out".to_owned(),
        Err(other) => return Err(other.into()),
    })
}

async fn child_of(test: &TestConductor, parent: Uuid) -> anyhow::Result<Uuid> {
    Ok(
        sqlx::query_scalar("select id from conductor.executions where parent_id = $1")
            .bind(parent)
            .fetch_one(test.pool())
            .await?,
    )
}

#[conductor::test]
async fn a_completed_child_gives_its_output(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Parent>(G8Parent { n: 21, days: 0 }).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    test.advance(DAY).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "ok 42");
    Ok(())
}

#[conductor::test]
async fn a_failed_child_is_an_error_that_may_be_handled(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Parent>(G8Parent { n: -1, days: 0 }).await?;
    test.drain().await?;
    test.advance(DAY).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "failed g8.child -1 is negative");
    Ok(())
}

#[conductor::test]
async fn a_cancelled_child_wakes_its_parent(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Parent>(G8Parent { n: 1, days: 2 }).await?;
    test.drain().await?;
    let child = child_of(&test, run.id()).await?;
    assert!(test.cancel(child).reason("no longer wanted").await?);
    test.drain().await?;
    test.advance(DAY).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "cancelled no longer wanted");
    Ok(())
}

#[conductor::test]
async fn a_child_that_takes_too_long_is_cancelled(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Parent>(G8Parent { n: 1, days: 30 }).await?;
    test.drain().await?;
    let child = child_of(&test, run.id()).await?;
    for _ in 0..4 {
        test.advance(DAY).await?;
        test.drain().await?;
    }
    assert_eq!(run.result().await?, "timed out");
    let child = test.execution::<G8Child>(child);
    assert_eq!(child.status().await?, Status::Cancelled);
    Ok(())
}

#[task(name = "g8.grandparent", retry(max_attempts = 1))]
async fn g8_grandparent(ctx: &TaskContext, n: i64) -> anyhow::Result<String> {
    Ok(ctx.invoke::<G8Middle>("middle", G8Middle { n }).await?)
}

#[task(name = "g8.middle", retry(max_attempts = 1))]
async fn g8_middle(ctx: &TaskContext, n: i64) -> anyhow::Result<String> {
    let twice = ctx
        .invoke::<G8Child>("child", G8Child { n, days: 1 })
        .await?;
    Ok(format!("{twice} in the end"))
}

#[conductor::test]
async fn a_grandparent_is_told(test: TestConductor) -> anyhow::Result<()> {
    let good = test.invoke::<G8Grandparent>(G8Grandparent { n: 4 }).await?;
    let bad = test
        .invoke::<G8Grandparent>(G8Grandparent { n: -4 })
        .await?;
    test.drain().await?;
    test.advance(DAY).await?;
    test.drain().await?;
    assert_eq!(good.result().await?, "8 in the end");
    let error = bad.result().await.unwrap_err().to_string();
    assert!(error.contains("-4 is negative"), "{error}");
    Ok(())
}

static JOINS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g8.joined")]
async fn g8_joined(ctx: &TaskContext) -> anyhow::Result<i64> {
    JOINS.fetch_add(1, SeqCst);
    let child = |key: &'static str, n| ctx.invoke::<G8Child>(key, G8Child { n, days: 1 });
    let (a, b, c) = tokio::try_join!(child("a", 1), child("b", 2), child("c", 3))?;
    Ok(a + b + c)
}

#[conductor::test]
async fn a_join_starts_all_children_in_one_go(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Joined>(()).await?;
    test.drain().await?;
    assert_eq!(JOINS.load(SeqCst), 1);
    let asleep: i64 = sqlx::query_scalar(
        "select count(*) from conductor.executions where parent_id = $1 and state = 'suspended'",
    )
    .bind(run.id())
    .fetch_one(test.pool())
    .await?;
    assert_eq!(asleep, 3);
    test.advance(DAY).await?;
    let worker = test.orchestrator().build()?.start().await?;
    assert_eq!(run.result().await?, 12);
    worker.stop().await?;
    Ok(())
}

static FANS: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g8.fan", retry(max_attempts = 1))]
async fn g8_fan(ctx: &TaskContext, children: i64, bad: Option<i64>) -> anyhow::Result<i64> {
    FANS.fetch_add(1, SeqCst);
    let payloads = (0..children).map(|n| G8Child {
        n: if Some(n) == bad { -n } else { n },
        days: 0,
    });
    let twice = ctx.invoke_all::<G8Child>("children", payloads).await?;
    assert!(
        twice
            .iter()
            .enumerate()
            .all(|(n, twice)| *twice == 2 * n as i64)
    );
    Ok(twice.iter().sum())
}

#[conductor::test]
async fn two_hundred_children_resume_their_parent_a_few_times(
    test: TestConductor,
) -> anyhow::Result<()> {
    let none = test
        .invoke::<G8Fan>(G8Fan {
            children: 0,
            bad: None,
        })
        .await?;
    test.drain().await?;
    assert_eq!(none.result().await?, 0);

    let before = FANS.load(SeqCst);
    let run = test
        .invoke::<G8Fan>(G8Fan {
            children: 200,
            bad: None,
        })
        .await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 199 * 200);
    let runs = FANS.load(SeqCst) - before;
    assert!(runs <= 5, "{runs} runs");

    let run = test
        .invoke::<G8Fan>(G8Fan {
            children: 5,
            bad: Some(3),
        })
        .await?;
    test.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(error.contains("-3 is negative"), "{error}");
    Ok(())
}

#[task(name = "g8.family", retry(max_attempts = 1))]
async fn g8_family(ctx: &TaskContext) -> anyhow::Result<()> {
    let kept = ctx
        .invoke::<G8Child>("kept", G8Child { n: 1, days: 9 })
        .detach();
    let (with, kept) = tokio::join!(ctx.invoke::<G8Middle>("with", G8Middle { n: 2 }), kept);
    with?;
    kept?;
    Ok(())
}

#[conductor::test]
async fn a_cancel_cascades_but_for_the_detached(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Family>(()).await?;
    test.drain().await?;
    assert!(test.cancel(run.id()).reason("the end").await?);
    let states: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select task, state, payload->>'n' from conductor.executions where id <> $1 order by task, 3",
    )
    .bind(run.id())
    .fetch_all(test.pool())
    .await?;
    let states: Vec<_> = states
        .iter()
        .map(|(task, state, n)| {
            (
                task.as_str(),
                state.as_str(),
                n.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    let expected = [
        ("g8.child", "suspended", "1"),
        ("g8.child", "cancelled", "2"),
        ("g8.middle", "cancelled", "2"),
    ];
    assert_eq!(states, expected);
    test.advance(DAY * 9).await?;
    test.drain().await?;
    let kept: i64 =
        sqlx::query_scalar("select count(*) from conductor.executions where state = 'completed'")
            .fetch_one(test.pool())
            .await?;
    assert_eq!(kept, 1);
    Ok(())
}

#[conductor::test]
async fn a_cancel_from_sql_may_leave_the_children(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G8Middle>(G8Middle { n: 3 }).await?;
    test.drain().await?;
    let cancelled: bool =
        sqlx::query_scalar("select conductor.cancel($1, 'not needed', cascade => false)")
            .bind(run.id())
            .fetch_one(test.pool())
            .await?;
    assert!(cancelled);
    assert_eq!(run.status().await?, Status::Cancelled);
    let child = "select count(*) from conductor.live_executions l where not l.cancelled and l.state = 'suspended'";
    let left: i64 = sqlx::query_scalar(child).fetch_one(test.pool()).await?;
    assert_eq!(left, 1);
    test.advance(DAY * 9).await?;
    test.drain().await?;
    let completed =
        "select count(*) from conductor.finished_executions f where f.state = 'completed'";
    let ended: i64 = sqlx::query_scalar(completed).fetch_one(test.pool()).await?;
    assert_eq!(ended, 1);
    Ok(())
}

/// A task that only some other program has; nobody declared it here.
struct Elsewhere;

impl Task for Elsewhere {
    type Payload = ();
    type Output = ();
    const NAME: &'static str = "g8.elsewhere";
}

#[task(name = "g8.lost")]
async fn g8_lost(ctx: &TaskContext) -> anyhow::Result<String> {
    let lost = ctx
        .invoke::<Elsewhere>("lost", ())
        .timeout(Duration::from_secs(60))
        .await;
    Ok(lost.unwrap_err().to_string())
}

#[conductor::test]
async fn a_child_of_a_task_that_nobody_declared_stays_pending(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G8Lost>(()).await?;
    test.drain().await?;
    let child: (String, String) =
        sqlx::query_as("select state, queue from conductor.live where task = 'g8.elsewhere'")
            .fetch_one(test.pool())
            .await?;
    assert_eq!(child, ("pending".to_owned(), "default".to_owned()));
    // Whoever has the task says where it belongs, and takes along what waits.
    sqlx::query(
        r#"select conductor.declare_tasks(jsonb_build_array(jsonb_build_object(
               'name', 'g8.elsewhere', 'queue', 'g8-other', 'package', 'elsewhere', 'place', 'elsewhere.rs:1',
               'docs', '', 'priority', 0, 'max_attempts', 3, 'backoff_initial_ms', 15000,
               'backoff_max_ms', 7200000, 'jitter', 0, 'timeout_ms', null,
               'keep_completed_ms', 1000, 'keep_failed_ms', 1000,
               'payload_schema', true, 'output_schema', true)), true)"#,
    )
    .execute(test.pool())
    .await?;
    let queue: String =
        sqlx::query_scalar("select queue from conductor.live where task = 'g8.elsewhere'")
            .fetch_one(test.pool())
            .await?;
    assert_eq!(queue, "g8-other");
    test.advance(Duration::from_secs(61)).await?;
    test.drain().await?;
    let said = run.result().await?;
    assert!(
        said.contains("g8.elsewhere") && said.contains("did not end in time"),
        "{said}"
    );
    Ok(())
}

#[task(name = "g8.leaf", queue = "g8-other")]
async fn g8_leaf(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(ctx.step("n", || async { anyhow::Ok(n) }).await? + 1)
}

#[task(name = "g8.chain")]
async fn g8_chain(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let one = ctx.invoke::<G8Leaf>("one", G8Leaf { n }).await?;
    let (two, many) = tokio::try_join!(
        ctx.invoke::<G8Leaf>("two", G8Leaf { n: one }),
        ctx.invoke_all::<G8Leaf>("many", (0..5).map(|n| G8Leaf { n })),
    )?;
    Ok(two + many.iter().sum::<i64>())
}

#[conductor::test]
async fn no_wake_is_lost_and_no_child_left_with_two_workers_and_cancels(
    test: TestConductor,
) -> anyhow::Result<()> {
    let first = test.orchestrator().build()?.start().await?;
    let second = test.orchestrator().build()?.start().await?;
    let ids = test
        .invoke_batch::<G8Chain>((0..150).map(|n| G8Chain { n }))
        .await?;
    let mut cancelled = 0;
    for id in ids.iter().step_by(3) {
        cancelled += usize::from(test.cancel(*id).await?);
    }
    let mut ended = 0;
    for (n, id) in ids.iter().enumerate() {
        let run = test.execution::<G8Chain>(*id);
        match tokio::time::timeout(Duration::from_secs(60), run.result()).await? {
            Ok(sum) => assert_eq!(sum, n as i64 + 17),
            Err(Error::Cancelled { .. }) => ended += 1,
            Err(other) => return Err(other.into()),
        }
    }
    assert_eq!(ended, cancelled);
    crate::support::eventually("the end of all children", || async {
        sqlx::query_scalar("select not exists (select from conductor.live_executions)")
            .fetch_one(test.pool())
            .await
            .unwrap()
    })
    .await;
    first.stop().await?;
    second.stop().await?;
    // Outcomes and cancels lock in one order.
    let deadlocks: i64 = sqlx::query_scalar(
        "select deadlocks from pg_stat_database where datname = current_database()",
    )
    .fetch_one(test.pool())
    .await?;
    assert_eq!(deadlocks, 0);
    Ok(())
}

#[task(name = "g8.passes_on")]
async fn g8_passes_on(ctx: &TaskContext) -> anyhow::Result<i64> {
    use anyhow::Context;
    ctx.step("before", || async { anyhow::Ok(()) }).await?;
    ctx.invoke::<G8Refuses>("child", ())
        .await
        .context("the child was of no use")
}

#[task(name = "g8.refuses")]
async fn g8_refuses(_ctx: &TaskContext) -> anyhow::Result<i64> {
    Err(anyhow::anyhow!("no")).permanent()
}

#[conductor::test]
async fn a_parent_that_passes_on_a_recorded_failure_is_not_tried_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G8PassesOn>(()).await?;
    test.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(
        error.contains("of no use") && error.contains("no"),
        "{error}"
    );
    assert_eq!(crate::support::info(&test, run.id()).await?.failures, 1);
    Ok(())
}
