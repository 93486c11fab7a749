//! `ctx.race`: the first branch to end wins, and wins again on every replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;

const HOUR: Duration = Duration::from_secs(60 * 60);

#[task(name = "race.answer")]
async fn race_answer(ctx: &TaskContext, hours: u32) -> anyhow::Result<u32> {
    ctx.sleep("think", HOUR * hours).await?;
    Ok(hours)
}

#[task(name = "race.first")]
async fn race_first(ctx: &TaskContext, slow: u32, late: u32) -> anyhow::Result<Vec<String>> {
    let first = ctx
        .race("first")
        .branch(async {
            let hours = ctx
                .invoke::<RaceAnswer>("answer", RaceAnswer { hours: slow })
                .await?;
            anyhow::Ok(format!("answer {hours}"))
        })
        .branch(async {
            ctx.sleep("late", HOUR * late).await?;
            anyhow::Ok("late".to_owned())
        })
        .await?;
    // By now both branches have come to their ends.
    ctx.sleep("long after", HOUR * 20).await?;
    Ok(vec![first, "end".to_owned()])
}

#[conductor::test]
async fn the_winner_is_the_same_on_replay(test: TestConductor) -> anyhow::Result<()> {
    let slow = test
        .invoke::<RaceFirst>(RaceFirst { slow: 3, late: 2 })
        .await?;
    let quick = test
        .invoke::<RaceFirst>(RaceFirst { slow: 2, late: 3 })
        .await?;
    for _ in 0..30 {
        test.drain().await?;
        test.advance(HOUR).await?;
    }
    test.drain().await?;
    assert_eq!(slow.result().await?, ["late", "end"]);
    assert_eq!(quick.result().await?, ["answer 2", "end"]);
    let winners: Vec<(String, String)> = sqlx::query_as(
        "select kind, value::text from conductor.steps where key = 'first' order by 2",
    )
    .fetch_all(test.pool())
    .await?;
    let winners: Vec<_> = winners.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(winners, [("race", "0"), ("race", "1")]);
    Ok(())
}

#[task(name = "race.error", retry(max_attempts = 1))]
async fn race_error(ctx: &TaskContext) -> anyhow::Result<u32> {
    let count = ctx.state::<Arc<AtomicUsize>>();
    ctx.race("error")
        .branch(async {
            ctx.sleep("soon", HOUR).await?;
            anyhow::bail!("refused")
        })
        .branch(async {
            ctx.sleep("never", HOUR * 2).await?;
            ctx.step("loser", || async {
                count.fetch_add(1, SeqCst);
                anyhow::Ok(1)
            })
            .await
        })
        .await
}

#[conductor::test]
async fn an_error_wins_like_a_value_and_losers_do_nothing(
    test: TestConductor,
) -> anyhow::Result<()> {
    let count = Arc::new(AtomicUsize::new(0));
    let test = test.state(Arc::clone(&count));
    let run = test.invoke::<RaceError>(()).await?;
    test.drain().await?;
    // Both sleeps are over when it wakes.
    test.advance(HOUR * 5).await?;
    test.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    assert_eq!(count.load(SeqCst), 0);
    Ok(())
}

#[task(name = "race.empty")]
async fn race_empty(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.race("empty").await
}

#[conductor::test]
async fn a_race_of_nobody_is_refused(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<RaceEmpty>(()).await?;
    test.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(error.contains("no branches"), "{error}");
    Ok(())
}

#[task(name = "race.joined", retry(max_attempts = 1))]
async fn race_joined(ctx: &TaskContext) -> anyhow::Result<(u32, u32)> {
    let borrowed = String::from("abc");
    let (one, two) = tokio::try_join!(
        ctx.race("one")
            .branch(async {
                let length = ctx
                    .step("length", || async { anyhow::Ok(borrowed.len()) })
                    .await?;
                anyhow::Ok(u32::try_from(length)?)
            })
            .branch(async {
                ctx.sleep("day", HOUR * 24).await?;
                anyhow::Ok(0)
            }),
        ctx.race("two")
            .branch(async {
                ctx.sleep("hour", HOUR).await?;
                anyhow::Ok(2)
            })
            .branch(async {
                ctx.sleep("two hours", HOUR * 2).await?;
                anyhow::Ok(3)
            }),
    )?;
    Ok((one, two))
}

#[conductor::test]
async fn races_run_side_by_side_and_borrow(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<RaceJoined>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, (3, 2));
    Ok(())
}

/// What polls its futures only where they were woken, such as `join_all` of many.
#[task(name = "race.unordered")]
async fn race_unordered(ctx: &TaskContext) -> anyhow::Result<Vec<u32>> {
    use futures_util::StreamExt;
    use futures_util::stream::FuturesUnordered;

    let steps = async {
        let mut all: FuturesUnordered<_> = (0..3)
            .map(|n| ctx.step(format!("step {n}"), async move || anyhow::Ok(n)))
            .collect();
        let mut seen = Vec::new();
        while let Some(n) = all.next().await {
            seen.push(n?);
        }
        seen.sort_unstable();
        anyhow::Ok(seen)
    };
    let late = async {
        ctx.sleep("late", HOUR).await?;
        anyhow::Ok(Vec::new())
    };
    let inner = ctx.race("inner").branch(steps).branch(late);
    ctx.race("outer").branch(inner).await
}

#[conductor::test]
async fn branches_that_are_polled_when_woken_go_on(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<RaceUnordered>(()).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, [0, 1, 2]);
    Ok(())
}
