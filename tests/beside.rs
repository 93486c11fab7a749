//! What stands beside a step begins at once and wakes the handler in place (G7): a step that runs can lose a race.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use tokio::sync::Notify;

use crate::support::{eventually, number, soon, start_with};

const HOUR: Duration = Duration::from_secs(3600);

/// What the tasks of one test share.
#[derive(Default)]
struct Shared {
    /// Lets the step end.
    go: Notify,
    /// How many bodies began, and how many came to their end.
    began: AtomicUsize,
    ended: AtomicUsize,
    runs: AtomicUsize,
}

type SharedByAll = Arc<Shared>;

impl Shared {
    /// A step's body that ends when it may.
    async fn slow(&self) -> anyhow::Result<String> {
        self.began.fetch_add(1, SeqCst);
        self.go.notified().await;
        self.ended.fetch_add(1, SeqCst);
        Ok("step".to_owned())
    }
}

#[event(name = "beside.stop")]
struct Stop {
    why: String,
}

#[task(name = "beside.child")]
async fn child(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    Ok(n)
}

#[task(name = "beside.races")]
async fn races(ctx: &TaskContext, against: String) -> anyhow::Result<String> {
    let shared = ctx.state::<SharedByAll>();
    shared.runs.fetch_add(1, SeqCst);
    let race = ctx.race("first").branch(ctx.step("slow", || shared.slow()));
    let winner = match against.as_str() {
        "sleep" => {
            race.branch(async {
                ctx.sleep("watchdog", HOUR).await?;
                anyhow::Ok("sleep".to_owned())
            })
            .await
        }
        "event" => {
            race.branch(async {
                let stop = ctx.wait_for_event::<Stop>("stop").await?;
                anyhow::Ok(stop.why)
            })
            .await
        }
        "child" => {
            race.branch(async {
                let n = ctx.invoke::<Child>("child", Child { n: 7 }).await?;
                anyhow::Ok(format!("child {n}"))
            })
            .await
        }
        "children" => {
            race.branch(async {
                let children = (0..3).map(|n| Child { n });
                let all = ctx.invoke_all::<Child>("children", children).await?;
                anyhow::Ok(format!("children {all:?}"))
            })
            .await
        }
        "late event" => {
            race.branch(async {
                let none = ctx.wait_for_event::<Stop>("stop").timeout(HOUR).await;
                anyhow::Ok(format!(
                    "{:?}",
                    none.map_err(|error| matches!(error, Error::NoEvent { .. }))
                ))
            })
            .await
        }
        other => anyhow::bail!("no race against {other}"),
    }?;
    // A replay takes the same one.
    ctx.sleep("a while", HOUR).await?;
    Ok(winner)
}

/// Waits until what stands beside the step is in the database.
async fn stands(test: &TestConductor, id: uuid::Uuid) {
    let sql = format!("select count(*) from conductor.waits where execution_id = '{id}'");
    eventually("the wait is begun", || async {
        number(test, &sql).await > 0
    })
    .await;
}

#[conductor::test]
async fn a_step_that_runs_loses_a_race(test: TestConductor) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    for (against, winner) in [
        ("sleep", "sleep"),
        ("event", "enough"),
        ("child", "child 7"),
        ("children", "children [0, 1, 2]"),
        ("late event", "Err(true)"),
    ] {
        let began = shared.began.load(SeqCst);
        let payload = Races {
            against: against.to_owned(),
        };
        let run = test.invoke::<Races>(payload).await?;
        match against {
            "sleep" | "late event" => {
                stands(&test, run.id()).await;
                test.advance(HOUR).await?;
            }
            "event" => {
                stands(&test, run.id()).await;
                let why = "enough".to_owned();
                test.emit(Stop { why }).await?;
            }
            _ => {}
        }
        // It went on in place to the sleep behind the race, while the step had not ended.
        let suspended = || async {
            run.status()
                .await
                .is_ok_and(|status| status == Status::Suspended)
        };
        eventually(against, suspended).await;
        assert_eq!(shared.began.load(SeqCst), began + 1, "{against}");
        test.advance(HOUR).await?;
        assert_eq!(soon(against, run.result()).await?, winner);
    }
    assert_eq!(
        shared.ended.load(SeqCst),
        0,
        "a body that has lost came to its end"
    );
    assert_eq!(
        shared.began.load(SeqCst),
        5,
        "a body that has lost began again"
    );
    let sql = "select count(*) from conductor.steps where key = 'slow'";
    assert_eq!(
        number(&test, sql).await,
        0,
        "the record of one that has lost"
    );
    worker.stop().await?;
    Ok(())
}

#[task(name = "beside.joins")]
async fn joins(ctx: &TaskContext) -> anyhow::Result<(String, u32, String)> {
    let shared = ctx.state::<SharedByAll>();
    shared.runs.fetch_add(1, SeqCst);
    let sleep_and_tell = async {
        ctx.sleep("nap", HOUR).await?;
        // A step behind what came, while the other one still runs.
        ctx.step("tell", || async {
            shared.go.notify_one();
            anyhow::Ok("told".to_owned())
        })
        .await
    };
    let child = async { anyhow::Ok(ctx.invoke::<Child>("child", Child { n: 3 }).await?) };
    tokio::try_join!(ctx.step("slow", || shared.slow()), child, sleep_and_tell)
}

#[conductor::test]
async fn what_stands_beside_a_step_begins_with_it(test: TestConductor) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    let run = test.invoke::<Joins>(()).await?;
    let sql = format!(
        "select count(*) from conductor.steps where execution_id = '{}' and key = 'child'",
        run.id()
    );
    eventually("the child has ended beside the step", || async {
        number(&test, &sql).await == 1
    })
    .await;
    assert_eq!(shared.ended.load(SeqCst), 0);
    // The deadline counts from the first poll: what was told lets the step end.
    test.advance(HOUR).await?;
    let (step, child, told) = soon("the end", run.result()).await?;
    assert_eq!((step.as_str(), child, told.as_str()), ("step", 3, "told"));
    assert_eq!(shared.runs.load(SeqCst), 1, "all of it in one run");
    assert_eq!(shared.began.load(SeqCst), 1);
    worker.stop().await?;
    Ok(())
}

#[task(name = "beside.drops")]
async fn drops(ctx: &TaskContext) -> anyhow::Result<Vec<String>> {
    let shared = ctx.state::<SharedByAll>();
    let first = ctx
        .race("first")
        .branch(ctx.step("slow", || shared.slow()))
        .branch(async { anyhow::Ok(ctx.wait_for_event::<Stop>("lost").await?.why) })
        .await?;
    // The wait that has lost takes no event.
    let second = ctx.wait_for_event::<Stop>("stop").await?.why;
    Ok(vec![first, second])
}

#[conductor::test]
async fn a_wait_that_has_lost_to_a_step_takes_no_event(test: TestConductor) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    let run = test.invoke::<Drops>(()).await?;
    stands(&test, run.id()).await;
    shared.go.notify_one();
    eventually("the second wait", || async {
        run.status()
            .await
            .is_ok_and(|status| status == Status::Suspended)
    })
    .await;
    let why = "one event".to_owned();
    test.emit(Stop { why }).await?;
    assert_eq!(soon("the end", run.result()).await?, ["step", "one event"]);
    worker.stop().await?;
    Ok(())
}

#[task(name = "beside.fails", retry(max_attempts = 2, backoff = "1ms..1ms"))]
async fn fails(ctx: &TaskContext) -> anyhow::Result<u32> {
    let shared = ctx.state::<SharedByAll>();
    let step = ctx.step("slow", || async {
        if shared.began.fetch_add(1, SeqCst) == 0 {
            shared.go.notified().await;
            anyhow::bail!("at first");
        }
        Ok(1)
    });
    let child = async { anyhow::Ok(ctx.invoke::<Child>("child", Child { n: 3 }).await?) };
    let (step, child) = tokio::try_join!(step, child)?;
    Ok(step + child)
}

#[conductor::test]
async fn the_next_attempt_meets_the_child_that_was_begun(
    test: TestConductor,
) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    let run = test.invoke::<Fails>(()).await?;
    let sql = "select count(*) from conductor.finished_executions where parent_id is not null";
    eventually("the child has ended", || async {
        number(&test, sql).await == 1
    })
    .await;
    shared.go.notify_one();
    assert_eq!(soon("the end", run.result()).await?, 4);
    assert_eq!(number(&test, sql).await, 1, "the child was made again");
    worker.stop().await?;
    Ok(())
}

#[task(name = "beside.quick")]
async fn quick(ctx: &TaskContext) -> anyhow::Result<String> {
    let shared = ctx.state::<SharedByAll>();
    let (step, ()) = tokio::try_join!(async { ctx.step("slow", || shared.slow()).await }, async {
        anyhow::Ok(ctx.sleep("nap", Duration::from_millis(300)).await?)
    },)?;
    Ok(step)
}

#[conductor::test]
async fn a_sleep_runs_while_the_step_does(test: TestConductor) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    let run = test.invoke::<Quick>(()).await?;
    stands(&test, run.id()).await;
    let sql = format!(
        "select count(*) from conductor.waits where execution_id = '{}' and wake_at <= conductor.now()",
        run.id()
    );
    eventually("the sleep is over", || async {
        number(&test, &sql).await == 1
    })
    .await;
    let began = Instant::now();
    shared.go.notify_one();
    assert_eq!(soon("the end", run.result()).await?, "step");
    assert!(
        began.elapsed() < Duration::from_millis(290),
        "it slept again: {:?}",
        began.elapsed()
    );
    worker.stop().await?;
    Ok(())
}

#[task(name = "beside.keeps")]
async fn keeps(ctx: &TaskContext) -> anyhow::Result<Vec<String>> {
    let shared = ctx.state::<SharedByAll>();
    let winner = ctx
        .race("first")
        .branch(async {
            ctx.step("slow", || shared.slow()).await?;
            ctx.sleep("an hour", HOUR).await?;
            anyhow::Ok("step".to_owned())
        })
        .branch(async {
            let event = ctx.wait_for_event::<Stop>("event").await?;
            let booked = async || anyhow::Ok(event.why);
            let booked = ctx.step("book", booked).await?;
            ctx.sleep("two hours", 2 * HOUR).await?;
            anyhow::Ok(booked)
        })
        .await?;
    let next = ctx.wait_for_event::<Stop>("next").timeout(HOUR).await;
    Ok(vec![
        winner,
        next.map_or("none".to_owned(), |next| next.why),
    ])
}

#[conductor::test]
async fn an_event_that_was_had_beside_a_step_is_not_given_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    let run = test.invoke::<Keeps>(()).await?;
    stands(&test, run.id()).await;
    let why = "paid".to_owned();
    test.emit(Stop { why }).await?;
    let sql = "select count(*) from conductor.steps where key = 'book'";
    eventually("it was booked", || async { number(&test, sql).await == 1 }).await;
    shared.go.notify_one();
    let suspended = || async {
        run.status()
            .await
            .is_ok_and(|status| status == Status::Suspended)
    };
    eventually("both branches sleep", suspended).await;
    test.advance(HOUR).await?;
    let sql = "select count(*) from conductor.waits where key = 'next'";
    eventually("the next wait", || async { number(&test, sql).await == 1 }).await;
    eventually("the next wait", suspended).await;
    test.advance(HOUR).await?;
    assert_eq!(soon("the end", run.result()).await?, ["step", "none"]);
    worker.stop().await?;
    Ok(())
}

#[task(name = "beside.hands-on")]
async fn hands_on(ctx: &TaskContext) -> anyhow::Result<String> {
    let shared = ctx.state::<SharedByAll>();
    // The event comes to a wait that is dropped without having had it.
    ctx.race("first")
        .branch(ctx.step("slow", || shared.slow()))
        .branch(async { anyhow::Ok(ctx.wait_for_event::<Stop>("dropped").await?.why) })
        .branch(async {
            ctx.sleep("watchdog", HOUR).await?;
            anyhow::Ok("watchdog".to_owned())
        })
        .await?;
    let stop = async {
        let stop = ctx.wait_for_event::<Stop>("stop").await?;
        shared.go.notify_one();
        anyhow::Ok(stop.why)
    };
    let (_, why) = tokio::try_join!(ctx.step("again", || shared.slow()), stop)?;
    Ok(why)
}

#[conductor::test]
async fn what_came_to_a_dropped_wait_is_for_the_next_one_beside_a_step(
    test: TestConductor,
) -> anyhow::Result<()> {
    let shared = SharedByAll::default();
    let worker = start_with(&test, 10, Arc::clone(&shared)).await?;
    // Some see the sleep first. Others see both at one look: there the branch of the event is polled first, and loses.
    for n in 0..6 {
        let run = test.invoke::<HandsOn>(()).await?;
        stands(&test, run.id()).await;
        // The sleep is over before the event is emitted.
        test.advance(HOUR).await?;
        let why = format!("event {n}");
        test.emit(Stop { why: why.clone() }).await?;
        assert_eq!(soon("the end", run.result()).await?, why);
    }
    worker.stop().await?;
    Ok(())
}
