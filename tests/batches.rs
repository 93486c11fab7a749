//! Batch handlers: executions that are gathered and run together, each with its own outcome.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Status};
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    Gate, Process, count, eventually, info, kill_sessions, left, narrow, session, soon, start_with,
};

/// What each call of a handler was given, and when.
type Calls = Arc<Mutex<Vec<(Vec<u32>, Instant)>>>;

fn note(ctx: &BatchContext, items: &[u32]) {
    let calls = ctx.state::<Calls>();
    calls.lock().unwrap().push((items.to_vec(), Instant::now()));
}

fn sizes(calls: &Calls) -> Vec<usize> {
    calls
        .lock()
        .unwrap()
        .iter()
        .map(|(items, _)| items.len())
        .collect()
}

#[task(name = "batches-doubled", batch(max_size = 100, max_wait = "300ms"))]
async fn batches_doubled(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<Vec<u32>> {
    assert_eq!(ctx.len(), items.len());
    note(ctx, &items);
    Ok(items.into_iter().map(|n| n * 2).collect())
}

#[task(
    name = "batches-each",
    batch(max_size = 10, max_wait = "100ms"),
    retry(max_attempts = 3, backoff = "1s", jitter = 0)
)]
async fn batches_each(
    ctx: &BatchContext,
    items: Vec<u32>,
) -> anyhow::Result<Vec<anyhow::Result<u32>>> {
    note(ctx, &items);
    let both = ctx.items().iter().zip(items);
    let results = both.map(|(item, n)| match n {
        1 => anyhow::bail!("one is refused"),
        2 => Err(anyhow::anyhow!("two is hopeless")).permanent(),
        3 if item.attempt() == 1 => {
            Err(anyhow::anyhow!("three comes later")).retry_after(Duration::from_secs(100))
        }
        n => Ok(n * 10 + item.attempt()),
    });
    Ok(results.collect())
}

/// Fails in the way that its first item says.
#[task(
    name = "batches-whole",
    batch(max_size = 3, max_wait = "100ms"),
    retry(max_attempts = 2, backoff = "1s", jitter = 0),
    timeout = "1m"
)]
async fn batches_whole(_ctx: &BatchContext, items: Vec<String>) -> anyhow::Result<()> {
    match items[0].as_str() {
        "fails" => anyhow::bail!("all of them"),
        "permanent" => Err(anyhow::anyhow!("none of them ever")).permanent(),
        "later" => Err(anyhow::anyhow!("not now")).retry_after(Duration::from_secs(500)),
        "panics" => panic!("the handler's own"),
        "hangs" => std::future::pending().await,
        _ => Ok(()),
    }
}

#[task(name = "batches-short", batch(max_wait = "100ms"))]
async fn batches_short(_ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<Vec<u32>> {
    Ok(items[1..].to_vec())
}

/// Ends when the test lets it on and its second item is cancelled.
#[task(name = "batches-gated", batch(max_size = 4, max_wait = "50ms"))]
async fn batches_gated(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<Vec<String>> {
    ctx.state::<Arc<Gate>>().pass().await;
    ctx.items()[1].until_cancelled().await;
    let both = ctx.items().iter().zip(items);
    Ok(both
        .map(|(item, n)| format!("{n} {}", item.cancelled()))
        .collect())
}

/// Waits long for its batch.
#[task(name = "batches-patient", batch(max_size = 3, max_wait = "1h"))]
async fn batches_patient(_ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<Vec<u32>> {
    Ok(items)
}

/// Crashes its process, or does not end there, in the first attempt.
#[task(name = "batches-first-hangs", batch(max_size = 3, max_wait = "100ms"))]
async fn batches_first_hangs(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<Vec<u32>> {
    if ctx.items().iter().any(|item| item.attempt() == 1) {
        std::future::pending::<()>().await;
    }
    let both = ctx.items().iter().zip(items);
    Ok(both.map(|(item, n)| n + item.attempt()).collect())
}

#[task(
    name = "batches-slow",
    batch(max_size = 20, max_wait = "50ms"),
    retry(max_attempts = 1)
)]
async fn batches_slow(ctx: &BatchContext, items: Vec<u32>) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    note(ctx, &items);
    Ok(())
}

#[task(name = "batches-plain")]
async fn batches_plain(_ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    Ok(n)
}

#[task(name = "batches-parent")]
async fn batches_parent(ctx: &TaskContext, numbers: Vec<u32>) -> anyhow::Result<u32> {
    let doubled = ctx.invoke_all::<BatchesDoubled>("double", numbers).await?;
    Ok(doubled.into_iter().sum())
}

async fn invoke_each<T: Task>(
    test: &TestConductor,
    payloads: impl IntoIterator<Item = T::Payload>,
) -> anyhow::Result<Vec<Execution<T>>> {
    let payloads: Vec<T::Payload> = payloads.into_iter().collect();
    let ids = test.invoke_batch::<T>(payloads).await?;
    Ok(ids.into_iter().map(|id| test.execution::<T>(id)).collect())
}

/// Waits until so many executions of a task are claimed.
async fn running(test: &TestConductor, task: &str, many: i64) {
    let query = format!(
        "select count(*) from conductor.executions where state = 'running' and task = '{task}'"
    );
    eventually("claimed executions", || async {
        let running: i64 = sqlx::query_scalar(AssertSqlSafe(query.clone()))
            .fetch_one(test.pool())
            .await
            .unwrap();
        running == many
    })
    .await;
}

async fn failed<T: Task>(run: &Execution<T>) -> String
where
    T::Output: std::fmt::Debug,
{
    soon("its end", run.result()).await.unwrap_err().to_string()
}

#[conductor::test]
async fn a_backlog_runs_in_batches_of_the_size_each_item_once(
    test: TestConductor,
) -> anyhow::Result<()> {
    let calls = Calls::default();
    let runs = invoke_each::<BatchesDoubled>(&test, 0..250).await?;
    let worker = start_with(&test, 10, calls.clone()).await?;
    for (n, run) in (0..).zip(&runs) {
        assert_eq!(soon("its end", run.result()).await?, n * 2);
    }
    assert_eq!(sizes(&calls), [100, 100, 50]);
    let mut seen: Vec<u32> = calls
        .lock()
        .unwrap()
        .iter()
        .flat_map(|(items, _)| items.clone())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..250).collect::<Vec<_>>());
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn with_one_slot_batches_fill_all_the_same(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let runs = invoke_each::<BatchesDoubled>(&test, 0..200).await?;
    let worker = start_with(&test, 1, calls.clone()).await?;
    for run in &runs {
        soon("its end", run.result()).await?;
    }
    assert_eq!(sizes(&calls), [100, 100]);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_single_item_waits_for_max_wait_and_no_longer(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let worker = start_with(&test, 10, calls.clone()).await?;
    let began = Instant::now();
    let run = test.invoke::<BatchesDoubled>(4).await?;
    assert_eq!(soon("its end", run.result()).await?, 8);
    let waited = calls.lock().unwrap()[0].1 - began;
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    assert!(waited < Duration::from_millis(1500), "{waited:?}");

    // One that comes while the first waits goes with it, and does not prolong the wait.
    let began = Instant::now();
    let first = test.invoke::<BatchesDoubled>(1).await?;
    running(&test, "batches-doubled", 1).await;
    let second = test.invoke::<BatchesDoubled>(2).await?;
    soon("the first's end", first.result()).await?;
    soon("the second's end", second.result()).await?;
    let (items, at) = calls.lock().unwrap()[1].clone();
    assert_eq!(items, [1, 2]);
    assert!(at - began < Duration::from_millis(1500), "{:?}", at - began);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn each_item_has_its_own_result_and_retries(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let test = test.state(calls.clone());
    let runs = invoke_each::<BatchesEach>(&test, 0..5).await?;
    test.drain().await?;
    assert_eq!(runs[0].result().await?, 1);
    assert_eq!(runs[4].result().await?, 41);
    assert!(failed(&runs[2]).await.contains("two is hopeless"));
    assert_eq!(sizes(&calls), [5]);

    // By its own policy, and by the delay that it was given.
    test.advance(Duration::from_secs(1)).await?;
    test.drain().await?;
    assert_eq!(runs[3].status().await?, Status::Pending);
    test.advance(Duration::from_secs(2)).await?;
    test.drain().await?;
    assert!(failed(&runs[1]).await.contains("one is refused"));
    assert_eq!(info(&test, runs[1].id()).await?.failures, 3);
    test.advance(Duration::from_secs(100)).await?;
    test.drain().await?;
    assert_eq!(runs[3].result().await?, 32);
    assert_eq!(sizes(&calls), [5, 1, 1, 1]);
    Ok(())
}

#[conductor::test]
async fn a_failure_of_the_whole_is_one_of_each_item(test: TestConductor) -> anyhow::Result<()> {
    let whole = async |first: &str| {
        let items = [first, "x", "y"].map(str::to_owned);
        let runs = invoke_each::<BatchesWhole>(&test, items).await?;
        anyhow::Ok(runs)
    };
    for (first, text) in [("fails", "all of them"), ("panics", ": the handler's own")] {
        let runs = whole(first).await?;
        test.drain().await?;
        for run in &runs {
            let info = info(&test, run.id()).await?;
            assert_eq!((info.state, info.failures), (Status::Pending, 1), "{first}");
        }
        test.advance(Duration::from_secs(1)).await?;
        test.drain().await?;
        for run in &runs {
            assert!(failed(run).await.contains(text), "{first}");
            assert_eq!(test.failures(run.id()).await?.len(), 2);
        }
    }

    for run in whole("permanent").await? {
        test.drain().await?;
        assert!(failed(&run).await.contains("none of them ever"));
        assert_eq!(info(&test, run.id()).await?.failures, 1);
    }

    let runs = whole("later").await?;
    test.drain().await?;
    test.advance(Duration::from_secs(400)).await?;
    test.drain().await?;
    assert_eq!(info(&test, runs[1].id()).await?.failures, 1);
    test.advance(Duration::from_secs(100)).await?;
    test.drain().await?;
    assert!(failed(&runs[1]).await.contains("not now"));
    Ok(())
}

#[conductor::test]
async fn a_timeout_is_one_of_each_item(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 10, ()).await?;
    let items = ["hangs", "x", "y"].map(str::to_owned);
    let runs = invoke_each::<BatchesWhole>(&test, items).await?;
    running(&test, "batches-whole", 3).await;
    for attempts in 1..=2 {
        eventually("the timeout", || async {
            // Past the timeout, and past the delay before the next attempt.
            test.advance(Duration::from_secs(61)).await.unwrap();
            count(&test, "task = 'batches-whole' and failures > 0")
                .await
                .unwrap()
                == 3
                && (attempts == 1 || count(&test, "state = 'failed'").await.unwrap() == 3)
        })
        .await;
    }
    for run in &runs {
        assert!(failed(run).await.contains("timed out after 1m"));
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn results_of_another_number_fail_all_for_good(test: TestConductor) -> anyhow::Result<()> {
    let runs = invoke_each::<BatchesShort>(&test, 0..3).await?;
    test.drain().await?;
    for run in &runs {
        let text = failed(run).await;
        assert!(text.contains("gave 2 results for 3 items"), "{text}");
        assert_eq!(info(&test, run.id()).await?.failures, 1);
    }
    Ok(())
}

#[conductor::test]
async fn an_item_that_cannot_be_read_waits_alone(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let test = test.state(calls.clone());
    let good = invoke_each::<BatchesDoubled>(&test, [1, 2, 3]).await?;
    let mut bad = Vec::new();
    for payload in [json!("four"), json!({"n": 5})] {
        let id: Uuid = sqlx::query_scalar("select conductor.invoke('batches-doubled', $1)")
            .bind(sqlx::types::Json(payload))
            .fetch_one(test.pool())
            .await?;
        bad.push(test.execution::<BatchesDoubled>(id));
    }
    test.drain().await?;
    for (n, run) in (1..).zip(&good) {
        assert_eq!(run.result().await?, n * 2);
    }
    for run in &bad {
        let text = left(&test, run.id()).await?;
        assert!(text.contains("invalid type"), "{text}");
    }
    assert_eq!(sizes(&calls), [3]);
    // With nothing but such items, the handler is not called.
    sqlx::query("select conductor.invoke('batches-doubled', '\"six\"')")
        .execute(test.pool())
        .await?;
    test.drain().await?;
    assert_eq!(sizes(&calls), [3]);
    assert_eq!(count(&test, "state = 'pending'").await?, 3);
    Ok(())
}

#[conductor::test]
async fn a_cancelled_item_disturbs_no_other(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let patient = invoke_each::<BatchesPatient>(&test, 0..2).await?;
    running(&test, "batches-patient", 2).await;
    // While it waits for its batch.
    assert!(test.cancel(patient[0].id()).reason("enough").await?);
    eventually("its end", || async {
        patient[0].status().await.unwrap() == Status::Cancelled
    })
    .await;
    let more = invoke_each::<BatchesPatient>(&test, 2..4).await?;
    for (n, run) in [(1, &patient[1]), (2, &more[0]), (3, &more[1])] {
        assert_eq!(soon("the batch's end", run.result()).await?, n);
    }

    // While it runs.
    let runs = invoke_each::<BatchesGated>(&test, 0..4).await?;
    gate.entered(1).await;
    assert!(test.cancel(runs[1].id()).reason("late").await?);
    gate.open(1);
    for n in [0, 2, 3] {
        assert_eq!(
            soon("its end", runs[n].result()).await?,
            format!("{n} false")
        );
    }
    assert!(failed(&runs[1]).await.contains("late"));
    let cancelled = info(&test, runs[1].id()).await?;
    assert_eq!(
        (cancelled.state, cancelled.failures),
        (Status::Cancelled, 0)
    );
    worker.stop().await?;

    // Before any worker has it.
    let runs = invoke_each::<BatchesPatient>(&test, 0..4).await?;
    assert!(test.cancel(runs[0].id()).await?);
    test.drain().await?;
    assert_eq!(runs[3].result().await?, 3);
    Ok(())
}

#[conductor::test]
async fn the_items_of_a_killed_process_run_elsewhere(test: TestConductor) -> anyhow::Result<()> {
    let mut process = Process::start(&test)?;
    let runs = invoke_each::<BatchesFirstHangs>(&test, [10, 20, 30]).await?;
    running(&test, "batches-first-hangs", 3).await;
    // Two that wait there for a third one, too.
    let gathered = invoke_each::<BatchesPatient>(&test, [1, 2]).await?;
    running(&test, "batches-patient", 2).await;
    process.kill()?;

    let survivor = test
        .orchestrator()
        .heartbeat(Duration::from_millis(200), Duration::from_secs(30))
        .build()?
        .start()
        .await?;
    for (n, run) in [10, 20, 30].into_iter().zip(&runs) {
        assert_eq!(soon("its end", run.result()).await?, n + 2);
        let info = info(&test, run.id()).await?;
        assert_eq!((info.crashes, info.failures), (1, 0));
    }
    test.invoke::<BatchesPatient>(3).await?;
    for (n, run) in [1, 2].into_iter().zip(&gathered) {
        assert_eq!(soon("its end", run.result()).await?, n);
    }
    survivor.stop().await?;
    Ok(())
}

/// As in G3: a claim whose answer is lost is given back, and no item that is gathered or runs.
#[conductor::test]
async fn items_run_once_although_sessions_break(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let mut beside = session(&test).await?;
    test.invoke_batch::<BatchesSlow>(0..1500).await?;
    let worker = start_with(&test, 3, calls.clone()).await?;
    let mut killed = 0;
    soon("all outcomes", async {
        loop {
            let left: i64 = sqlx::query_scalar("select count(*) from conductor.live_executions")
                .fetch_one(&mut beside)
                .await
                .unwrap();
            if left == 0 {
                break;
            }
            if killed < 40 {
                kill_sessions(&mut beside).await.unwrap();
                killed += 1;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(killed > 3, "too quick to be broken: {killed}");
    soon("the stop", worker.stop()).await?;
    let calls = calls.lock().unwrap();
    let mut ran: Vec<u32> = calls.iter().flat_map(|(items, _)| items.clone()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..1500).collect::<Vec<_>>());
    Ok(())
}

#[conductor::test]
async fn others_of_the_queue_are_not_held_up(test: TestConductor) -> anyhow::Result<()> {
    // With a single slot: items that wait take none.
    let worker = start_with(&test, 1, ()).await?;
    let patient = invoke_each::<BatchesPatient>(&test, [1, 2]).await?;
    running(&test, "batches-patient", 2).await;
    for n in 0..20 {
        let plain = test.invoke::<BatchesPlain>(BatchesPlain { n }).await?;
        assert_eq!(soon("a plain one", plain.result()).await?, n);
    }
    assert_eq!(patient[0].status().await?, Status::Running);
    test.invoke::<BatchesPatient>(3).await?;
    soon("the batch", patient[0].result()).await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_mixed_backlog_runs_each_once(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let test = test.state(calls.clone());
    for n in 0..6 {
        let items = n * 150..(n + 1) * 150;
        test.invoke_batch::<BatchesPlain>(items.clone().map(|n| BatchesPlain { n }))
            .await?;
        test.invoke_batch::<BatchesDoubled>(items).await?;
    }
    test.drain().await?;
    assert_eq!(
        count(&test, "state = 'completed' and claim = 1").await?,
        1800
    );
    let sizes = sizes(&calls);
    assert_eq!(sizes.iter().sum::<usize>(), 900);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    assert!(sizes.len() <= 30, "{sizes:?}");
    Ok(())
}

#[conductor::test]
async fn two_workers_share_the_items(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let workers: [Handle; 2] = [
        start_with(&test, 2, calls.clone()).await?,
        start_with(&test, 2, calls.clone()).await?,
    ];
    let runs = invoke_each::<BatchesDoubled>(&test, 0..1000).await?;
    for (n, run) in (0..).zip(&runs) {
        assert_eq!(soon("its end", run.result()).await?, n * 2);
    }
    assert_eq!(sizes(&calls).iter().sum::<usize>(), 1000);
    assert_eq!(
        count(&test, "state = 'completed' and claim = 1").await?,
        1000
    );
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn a_shutdown_gives_back_what_waits_for_a_batch(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 10, ()).await?;
    let runs = invoke_each::<BatchesPatient>(&test, 0..2).await?;
    running(&test, "batches-patient", 2).await;
    soon("the stop", worker.stop()).await?;
    for run in &runs {
        let info = info(&test, run.id()).await?;
        assert_eq!(
            (info.state, info.failures, info.crashes),
            (Status::Pending, 0, 0)
        );
    }
    let other = start_with(&test, 10, ()).await?;
    test.invoke::<BatchesPatient>(2).await?;
    assert_eq!(soon("its end", runs[1].result()).await?, 1);
    other.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_shutdown_past_its_deadline_gives_back_a_running_batch(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = test
        .orchestrator()
        .worker(narrow(5))
        .allow_unserved_queues()
        .shutdown_deadline(Duration::from_millis(50))
        .state(gate.clone())
        .build()?
        .start()
        .await?;
    let runs = invoke_each::<BatchesGated>(&test, 0..4).await?;
    gate.entered(1).await;
    soon("the stop", worker.stop()).await?;
    gate.dropped().await;
    for run in &runs {
        let info = info(&test, run.id()).await?;
        assert_eq!(
            (info.state, info.failures, info.crashes),
            (Status::Pending, 0, 0)
        );
    }
    Ok(())
}

#[conductor::test]
async fn a_parent_gets_the_outputs_of_its_items(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let test = test.state(calls.clone());
    let numbers = (1..=10).collect();
    let parent = test
        .invoke::<BatchesParent>(BatchesParent { numbers })
        .await?;
    test.drain().await?;
    assert_eq!(parent.result().await?, 110);
    assert_eq!(sizes(&calls), [10]);
    Ok(())
}

#[conductor::test]
async fn a_batch_handler_is_a_function(test: TestConductor) -> anyhow::Result<()> {
    let calls = Calls::default();
    let test = test.state(calls.clone());
    let ctx = test.batch_context(2);
    assert_eq!(batches_doubled(&ctx, vec![1, 2]).await?, [2, 4]);
    let keys: Vec<String> = ctx
        .items()
        .iter()
        .map(|item| item.idempotency_key("k"))
        .collect();
    assert_ne!(keys[0], keys[1]);
    Ok(())
}
