//! What a handler no longer waits for takes nothing (G19): the losers of races and of `select!`, dropped
//! futures, and keys that a deploy has renamed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Field, Status};

use crate::support::{Gate, number, run_sql, soon, start_with};

const HOUR: Duration = Duration::from_secs(3600);
const ROWS: &str = "select count(*) from conductor.waits";

#[event(name = "withdrawn.verdict")]
struct Verdict {
    order: i64,
    kind: String,
}

async fn emit(test: &TestConductor, order: i64, kind: &str) -> anyhow::Result<()> {
    let kind = kind.to_owned();
    test.emit(Verdict { order, kind }).await?;
    Ok(())
}

/// Hears until "stop", with a tick of an hour in between.
#[task(name = "withdrawn.ticks", retry(max_attempts = 1))]
async fn ticks(ctx: &TaskContext, order: i64, select: bool) -> anyhow::Result<Vec<String>> {
    let mut seen = Vec::new();
    for n in 0..8 {
        let heard = async {
            let verdict = ctx
                .wait_for_event::<Verdict>(format!("ev {n}"))
                .when(Verdict::order.eq(order));
            anyhow::Ok(verdict.await?.kind)
        };
        let late = async {
            ctx.sleep(format!("tick {n}"), HOUR).await?;
            anyhow::Ok("-".to_owned())
        };
        let what = if select {
            tokio::select! { what = heard => what?, what = late => what? }
        } else {
            let race = ctx.race(format!("round {n}"));
            race.branch(heard).branch(late).await?
        };
        seen.push(what.clone());
        if what == "stop" {
            break;
        }
    }
    Ok(seen)
}

#[conductor::test]
async fn a_tick_does_not_cost_an_event(test: TestConductor) -> anyhow::Result<()> {
    let raced = test
        .invoke::<Ticks>(Ticks {
            order: 0,
            select: false,
        })
        .await?;
    let selected = test
        .invoke::<Ticks>(Ticks {
            order: 0,
            select: true,
        })
        .await?;
    test.drain().await?;
    for _ in 0..3 {
        test.advance(HOUR).await?;
        test.drain().await?;
    }
    // The three ticks that are over, the fourth, and what it races with.
    assert_eq!(number(&test, ROWS).await, 2 * 5);
    emit(&test, 0, "go on").await?;
    test.drain().await?;
    emit(&test, 0, "stop").await?;
    test.drain().await?;
    for run in [raced, selected] {
        assert_eq!(run.status().await?, Status::Completed);
        assert_eq!(run.result().await?, ["-", "-", "-", "go on", "stop"]);
    }
    Ok(())
}

/// The first verdict, and then the other one.
#[task(name = "withdrawn.both", retry(max_attempts = 1))]
async fn both(ctx: &TaskContext, order: i64, first: String) -> anyhow::Result<Vec<String>> {
    let wait = |key: &str, kind: &str| {
        let wanted = Verdict::order
            .eq(order)
            .and(Verdict::kind.eq(kind.to_owned()));
        ctx.wait_for_event::<Verdict>(key).when(wanted)
    };
    let race = ctx.race("first");
    // The second time the waits themselves are branches, so that a replay makes them.
    let first = if first == "blocks" {
        race.branch(async { wait("a", "approve").await })
            .branch(async { wait("b", "reject").await })
            .await?
    } else {
        race.branch(wait("a", "approve"))
            .branch(wait("b", "reject"))
            .await?
    };
    let other = if first.kind == "approve" {
        "reject"
    } else {
        "approve"
    };
    let next = wait("next", other).timeout(HOUR).await?;
    Ok(vec![first.kind, next.kind])
}

#[conductor::test]
async fn what_the_loser_would_have_had_is_there_for_the_next_wait(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for (at, form) in ["blocks", "waits"].into_iter().enumerate() {
        let order = at as i64 * 3;
        let invoke = async |order| {
            let first = form.to_owned();
            test.invoke::<Both>(Both { order, first }).await
        };
        // Both are there before it waits; both come while it waits; one comes after the race.
        runs.push(invoke(order).await?);
        emit(&test, order, "approve").await?;
        emit(&test, order, "reject").await?;
        runs.push(invoke(order + 1).await?);
        runs.push(invoke(order + 2).await?);
        test.drain().await?;
        for kind in ["approve", "reject"] {
            emit(&test, order + 1, kind).await?;
        }
        emit(&test, order + 2, "approve").await?;
        test.drain().await?;
        emit(&test, order + 2, "reject").await?;
        test.drain().await?;
    }
    test.advance(HOUR * 2).await?;
    test.drain().await?;
    for run in runs {
        assert_eq!(run.result().await?, ["approve", "reject"]);
    }
    Ok(())
}

/// Races two waits for the same events: the one that has the earlier event wins, wherever it stands.
#[task(name = "withdrawn.alike", retry(max_attempts = 1))]
async fn alike(ctx: &TaskContext, order: i64) -> anyhow::Result<Vec<String>> {
    let wait = |key: &str| {
        ctx.wait_for_event::<Verdict>(key)
            .when(Verdict::order.eq(order))
    };
    let first = ctx
        .race("first")
        .branch(wait("b"))
        .branch(wait("a"))
        .await?;
    let mut kinds = vec![first.kind];
    for key in ["c", "d"] {
        kinds.push(wait(key).timeout(HOUR).await?.kind);
    }
    Ok(kinds)
}

#[conductor::test]
async fn what_the_loser_had_comes_next(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<Alike>(Alike { order: 1 }).await?;
    for kind in ["one", "two", "three"] {
        emit(&test, 1, kind).await?;
    }
    test.drain().await?;
    test.advance(HOUR * 2).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, ["one", "two", "three"]);
    Ok(())
}

/// Collects verdicts for an hour, works on each, and then hears one more.
#[task(name = "withdrawn.collects", retry(max_attempts = 2, backoff = "1s"))]
async fn collects(ctx: &TaskContext, order: i64, late_first: bool) -> anyhow::Result<Vec<String>> {
    let collected = std::sync::Mutex::new(Vec::new());
    let collector = async {
        for n in 0.. {
            let verdict = ctx
                .wait_for_event::<Verdict>(format!("ev {n}"))
                .when(Verdict::order.eq(order))
                .await?;
            ctx.step(format!("work {n}"), || async { anyhow::Ok(()) })
                .await?;
            collected.lock().unwrap().push(verdict.kind);
        }
        anyhow::Ok(())
    };
    let late = async {
        ctx.sleep("an hour", HOUR).await?;
        anyhow::Ok(())
    };
    let race = ctx.race("collected");
    if late_first {
        race.branch(late).branch(collector).await?;
    } else {
        race.branch(collector).branch(late).await?;
    }
    // The first attempt dies between the race and the next suspension.
    anyhow::ensure!(ctx.attempt() > 1, "again");
    let wait = ctx
        .wait_for_event::<Verdict>("next")
        .when(Verdict::order.eq(order));
    Ok(vec![wait.await?.kind])
}

#[conductor::test]
async fn what_a_losing_branch_has_worked_on_does_not_come_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for (order, late_first) in [(1, true), (2, false)] {
        runs.push(
            test.invoke::<Collects>(Collects { order, late_first })
                .await?,
        );
        test.drain().await?;
        for kind in ["one", "two"] {
            emit(&test, order, kind).await?;
            test.drain().await?;
        }
    }
    test.advance(HOUR).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(2)).await?;
    test.drain().await?;
    for (run, order) in runs.iter().zip([1, 2]) {
        assert_eq!(run.status().await?, Status::Suspended);
        emit(&test, order, "three").await?;
    }
    test.drain().await?;
    for run in runs {
        assert_eq!(run.result().await?, ["three"]);
    }
    Ok(())
}

/// Stands at a gate between the race and the next wait.
#[task(name = "withdrawn.stands", retry(max_attempts = 1))]
async fn stands(ctx: &TaskContext, order: i64, select: bool) -> anyhow::Result<String> {
    let wait = |key: &str| {
        ctx.wait_for_event::<Verdict>(key)
            .when(Verdict::order.eq(order))
    };
    let ready = async { ctx.sleep("short", HOUR).await };
    if select {
        tokio::select! { biased; _ = wait("a") => anyhow::bail!("too early"), done = ready => done? }
    } else {
        let waits = async { wait("a").await.map(drop) };
        ctx.race("first").branch(waits).branch(ready).await?;
    }
    ctx.step("gate", || async {
        ctx.state::<Arc<Gate>>().pass().await;
        anyhow::Ok(())
    })
    .await?;
    Ok(wait("next").await?.kind)
}

#[conductor::test]
async fn an_event_between_the_race_and_the_next_wait_is_for_the_next_wait(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let _running = start_with(&test, 8, Arc::clone(&gate)).await?;
    let mut runs = Vec::new();
    for select in [false, true] {
        runs.push(test.invoke::<Stands>(Stands { order: 1, select }).await?);
    }
    soon("both wait", async {
        while number(&test, ROWS).await != 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    test.advance(HOUR).await?;
    gate.entered(2).await;
    emit(&test, 1, "between").await?;
    gate.open(2);
    for run in runs {
        assert_eq!(soon("its end", run.result()).await?, "between");
    }
    Ok(())
}

static RENAMED: AtomicBool = AtomicBool::new(false);

/// Waits under a key, and after the deploy under another one.
#[task(name = "withdrawn.renamed", retry(max_attempts = 1))]
async fn renamed(ctx: &TaskContext, order: i64) -> anyhow::Result<(String, String)> {
    let new = RENAMED.load(Ordering::SeqCst);
    let wait = |key: &str| {
        ctx.wait_for_event::<Verdict>(key)
            .when(Verdict::order.eq(order))
    };
    let first = async {
        let first = wait(if new { "new" } else { "former" }).await?;
        Ok(first.kind)
    };
    let other = async {
        ctx.sleep("an hour", HOUR).await?;
        Ok(wait("later").await?.kind)
    };
    tokio::try_join!(first, other)
}

#[conductor::test]
async fn a_key_that_a_deploy_has_renamed_takes_nothing(test: TestConductor) -> anyhow::Result<()> {
    // Of the second one the event comes before the new code runs.
    let one = test.invoke::<Renamed>(Renamed { order: 1 }).await?;
    let two = test.invoke::<Renamed>(Renamed { order: 2 }).await?;
    test.drain().await?;
    RENAMED.store(true, Ordering::SeqCst);
    emit(&test, 2, "early").await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    let former = "select count(*) from conductor.waits where key = 'former'";
    assert_eq!(number(&test, former).await, 0);
    emit(&test, 1, "early").await?;
    test.drain().await?;
    for (run, order) in [(one, 1), (two, 2)] {
        emit(&test, order, "late").await?;
        test.drain().await?;
        let result = run.result().await?;
        assert!(
            result == ("early".into(), "late".into()) || result == ("late".into(), "early".into()),
            "{result:?}"
        );
    }
    Ok(())
}

/// Drops a wait and a sleep, and keeps a wait and a sleep that it does not poll for a while.
#[task(name = "withdrawn.keeps", retry(max_attempts = 1))]
async fn keeps(ctx: &TaskContext, order: i64) -> anyhow::Result<(String, bool)> {
    let wait = |key: &str| {
        ctx.wait_for_event::<Verdict>(key)
            .when(Verdict::order.eq(order))
    };
    let mut kept = pin!(wait("kept").timeout(HOUR * 5));
    {
        let mut dropped = pin!(wait("dropped"));
        let mut asleep = pin!(ctx.sleep("dropped sleep", HOUR * 2));
        // A replay polls the first one alone.
        tokio::select! {
            biased;
            done = ctx.sleep("one", HOUR) => done?,
            _ = &mut dropped => anyhow::bail!("too early"),
            _ = &mut asleep => anyhow::bail!("too late"),
            _ = &mut kept => anyhow::bail!("too early"),
        }
    }
    ctx.sleep("two", HOUR).await?;
    let first = wait("next").await?.kind;
    Ok((first, kept.await.is_err()))
}

#[conductor::test]
async fn what_is_dropped_goes_and_what_is_kept_stays(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<Keeps>(Keeps { order: 1 }).await?;
    test.drain().await?;
    assert_eq!(number(&test, ROWS).await, 4);
    test.advance(HOUR).await?;
    test.drain().await?;
    let keys = "select count(*) from conductor.waits where key in ('kept', 'one', 'two')";
    assert_eq!(
        (number(&test, keys).await, number(&test, ROWS).await),
        (3, 3)
    );
    // The third hour: the dropped sleep wakes nobody.
    test.advance(HOUR).await?;
    test.drain().await?;
    let claim = "select claim::bigint from conductor.live_executions";
    let claims = number(&test, claim).await;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(number(&test, claim).await, claims);
    // "kept" is before "next" in the order of keys, and still wanted.
    emit(&test, 1, "one").await?;
    emit(&test, 1, "two").await?;
    test.drain().await?;
    assert_eq!(run.result().await?, ("two".to_owned(), false));
    Ok(())
}

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Person {
    id: i64,
}

const ID: Field<Person, i64> = Field::new(&["id"]);

/// Two races of a row and an hour, and then a row.
#[task(name = "withdrawn.rows", retry(max_attempts = 1))]
async fn rows(ctx: &TaskContext) -> anyhow::Result<i64> {
    let wait = |key: String| {
        let wait = ctx.wait_for_insert::<Person>(key, "public.persons");
        wait.when(ID.gt(0))
    };
    for n in 0..2 {
        ctx.race(format!("round {n}"))
            .branch(async { wait(format!("row {n}")).await.map(drop) })
            .branch(ctx.sleep(format!("tick {n}"), HOUR))
            .await?;
    }
    let joined = wait("z".into()).timeout(HOUR).await?;
    Ok(joined.new.map_or(0, |person| person.id))
}

#[conductor::test]
async fn a_row_comes_to_the_wait_that_is_left_and_a_retry_waits_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(&test, "create table persons (id bigint primary key)").await?;
    let run = test.invoke::<Rows>(()).await?;
    let late = test.invoke::<Rows>(()).await?;
    test.drain().await?;
    for _ in 0..2 {
        test.advance(HOUR).await?;
        test.drain().await?;
    }
    // For one of them none comes in time.
    let end =
        "update conductor.waits set wake_at = conductor.now() where key = 'z' and execution_id = ";
    run_sql(&test, &format!("{end}'{}'", late.id())).await?;
    let due = "update conductor.live_executions set run_at = conductor.now() where id = ";
    run_sql(&test, &format!("{due}'{}'", late.id())).await?;
    test.drain().await?;
    assert_eq!(late.status().await?, Status::Failed);
    let again = test.retry(late.id()).await?.unwrap();
    test.drain().await?;
    run_sql(&test, "insert into persons values (7)").await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 7);
    assert_eq!(test.execution::<Rows>(again).result().await?, 7);
    Ok(())
}
