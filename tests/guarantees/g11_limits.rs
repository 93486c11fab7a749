//! G11: a limit is never exceeded across all workers, and a crashed holder's slot comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Reason, Status};
use serde_json::json;
use sqlx::{Acquire, AssertSqlSafe};

use crate::support::{
    Gate, Process, eventually, info, narrow, number, orchestrators, run_sql, size, soon, start_with,
};

type Log = Arc<Mutex<Vec<(u32, Instant)>>>;

#[task(name = "g11-two", concurrency = 2)]
async fn g11_two(ctx: &TaskContext, n: u32) -> anyhow::Result<u32> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(n)
}

#[task(name = "g11-keyed", concurrency(limit = 1, key = payload.tenant))]
async fn g11_keyed(ctx: &TaskContext, tenant: String) -> anyhow::Result<String> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(tenant)
}

#[task(name = "g11-sleeps", concurrency = 1)]
async fn g11_sleeps(ctx: &TaskContext, long: bool) -> anyhow::Result<()> {
    if long {
        ctx.sleep("long", Duration::from_secs(3600)).await?;
    }
    Ok(())
}

#[task(
    name = "g11-fails",
    concurrency = 1,
    retry(max_attempts = 2, backoff = "1s")
)]
async fn g11_fails(_ctx: &TaskContext) -> anyhow::Result<()> {
    anyhow::bail!("no")
}

#[task(name = "g11-hot", concurrency(limit = 2, key = payload.tenant))]
async fn g11_hot(ctx: &TaskContext, tenant: u32) -> anyhow::Result<()> {
    if tenant == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ctx.state::<Log>()
        .lock()
        .unwrap()
        .push((tenant, Instant::now()));
    Ok(())
}

#[task(name = "g11-rated", rate_limit = "20/1s")]
async fn g11_rated(ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    ctx.state::<Log>().lock().unwrap().push((n, Instant::now()));
    Ok(())
}

#[task(name = "g11-burst", rate_limit("60/1h", burst = 20))]
async fn g11_burst(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "g11-burst-bound", rate_limit("6/6m", burst = 4))]
async fn g11_burst_bound(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "g11-burst-key", rate_limit("2/2h", burst = 2, key = payload.tenant))]
async fn g11_burst_key(_ctx: &TaskContext, tenant: String) -> anyhow::Result<String> {
    Ok(tenant)
}

#[task(name = "g11-burst-quick", rate_limit("20/1s", burst = 10))]
async fn g11_burst_quick(ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    ctx.state::<Log>().lock().unwrap().push((n, Instant::now()));
    Ok(())
}

#[task(name = "g11-rated-key", rate_limit("1/1h", key = payload.tenant))]
async fn g11_rated_key(_ctx: &TaskContext, tenant: String) -> anyhow::Result<String> {
    Ok(tenant)
}

#[task(name = "g11-ordered", concurrency = 1)]
async fn g11_ordered(ctx: &TaskContext, n: u32) -> anyhow::Result<()> {
    ctx.state::<Log>().lock().unwrap().push((n, Instant::now()));
    Ok(())
}

#[task(name = "g11-plain")]
async fn g11_plain(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

const PARKED: &str =
    "select count(*) from conductor.live_executions where queue_id < 0 and state <> 'running'";

/// Invokes in this order, and gives the handles.
async fn invoke_each<T: Task>(
    test: &TestConductor,
    payloads: impl IntoIterator<Item = T::Payload>,
) -> anyhow::Result<Vec<Execution<T>>> {
    let payloads: Vec<T::Payload> = payloads.into_iter().collect();
    let ids = test.invoke_batch::<T>(payloads).await?;
    Ok(ids.into_iter().map(|id| test.execution::<T>(id)).collect())
}

async fn parked(test: &TestConductor, count: i64) {
    eventually("what waits for a slot", || async {
        number(test, PARKED).await == count
    })
    .await;
}

#[conductor::test]
async fn a_task_has_no_more_than_its_limit_in_all_workers(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let first = start_with(&test, 10, Arc::clone(&gate)).await?;
    let second = start_with(&test, 10, Arc::clone(&gate)).await?;
    let runs = invoke_each::<G11Two>(&test, (0..6).map(|n| G11Two { n })).await?;
    gate.entered(2).await;
    parked(&test, 4).await;
    for _ in 0..4 {
        assert_eq!(gate.unseen(), 0);
        gate.open(1);
        gate.entered(1).await;
    }
    gate.open(2);
    for (n, run) in (0..).zip(runs) {
        assert_eq!(soon("its end", run.result()).await?, n);
    }
    first.stop().await?;
    second.stop().await?;
    Ok(())
}

#[conductor::test]
async fn each_key_has_its_own_limit(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let tenants = ["a", "a", "b", "a", "b'\"; drop", &"x".repeat(500)];
    let tenants = tenants.map(|tenant| G11Keyed {
        tenant: tenant.to_owned(),
    });
    let runs = invoke_each::<G11Keyed>(&test, tenants).await?;
    // One of each key.
    gate.entered(4).await;
    parked(&test, 2).await;
    assert_eq!(gate.unseen(), 0);
    gate.open(6);
    for run in runs {
        soon("its end", run.result()).await?;
    }
    // Nobody has slots any more.
    eventually("free lanes", || async {
        number(
            &test,
            "select count(*) from conductor.lanes where holders <> '{}'",
        )
        .await
            == 0
    })
    .await;
    worker.stop().await?;
    assert!(number(&test, "select conductor.prune_lanes(100)::bigint").await >= 4);
    assert_eq!(
        number(&test, "select count(*) from conductor.lanes").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn what_sleeps_or_waits_for_a_retry_holds_no_slot(test: TestConductor) -> anyhow::Result<()> {
    let long = test.invoke::<G11Sleeps>(G11Sleeps { long: true }).await?;
    let short = test.invoke::<G11Sleeps>(G11Sleeps { long: false }).await?;
    let fails = test.invoke::<G11Fails>(()).await?;
    let again = test.invoke::<G11Fails>(()).await?;
    test.drain().await?;
    assert_eq!(long.status().await?, Status::Suspended);
    assert_eq!(short.status().await?, Status::Completed);
    for run in [&fails, &again] {
        assert_eq!(info(&test, run.id()).await?.failures, 1);
    }
    test.advance(Duration::from_secs(3601)).await?;
    test.drain().await?;
    assert_eq!(long.status().await?, Status::Completed);
    assert_eq!(fails.status().await?, Status::Failed);
    assert_eq!(again.status().await?, Status::Failed);
    Ok(())
}

#[conductor::test]
async fn a_key_with_a_deep_backlog_delays_no_other(test: TestConductor) -> anyhow::Result<()> {
    let deep = size(30_000, 100_000);
    let log = Log::default();
    test.invoke_batch::<G11Hot>((0..deep).map(|_| G11Hot { tenant: 0 }))
        .await?;
    let worker = start_with(&test, 20, Arc::clone(&log)).await?;
    eventually("the first", || async { !log.lock().unwrap().is_empty() }).await;
    let mut waits = Vec::new();
    for tenant in 1..=20 {
        let began = Instant::now();
        let run = test.invoke::<G11Hot>(G11Hot { tenant }).await?;
        soon("its end", run.result()).await?;
        waits.push(began.elapsed());
    }
    let hot = log
        .lock()
        .unwrap()
        .iter()
        .filter(|(tenant, _)| *tenant == 0)
        .count();
    assert!((hot as i64) < deep, "the backlog was not deep enough");
    // The first ones may come while the backlog is being parked.
    waits.sort();
    assert!(waits[10] < Duration::from_millis(500), "{waits:?}");
    worker.stop().await?;
    Ok(())
}

/// Declares a task's limits as another version of the code would.
async fn deploy(test: &TestConductor, task: &str, limits: serde_json::Value) -> anyhow::Result<()> {
    sqlx::query("select conductor.declare_limits($1)")
        .bind(json!([{"name": task, "limits": limits}]))
        .execute(test.pool())
        .await?;
    Ok(())
}

#[conductor::test]
async fn a_deploy_changes_a_limit(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 20, Arc::clone(&gate)).await?;
    let runs = invoke_each::<G11Two>(&test, (0..10).map(|n| G11Two { n })).await?;
    gate.entered(2).await;
    parked(&test, 8).await;
    let limit =
        |amount| json!([{"kind": "concurrency", "path": [], "amount": amount, "per_ms": null}]);
    deploy(&test, "g11-two", limit(5)).await?;
    gate.entered(3).await;
    parked(&test, 5).await;
    // Lower than what runs: nothing new starts until fewer run.
    deploy(&test, "g11-two", limit(1)).await?;
    eventually("fewer slots", || async {
        let slots = "select sum(h.value::int) from conductor.lanes a, jsonb_each(a.holders) h";
        number(&test, slots).await == 1
    })
    .await;
    gate.open(4);
    eventually("four ends", || async {
        crate::support::count(&test, "state = 'completed'")
            .await
            .unwrap()
            == 4
    })
    .await;
    assert_eq!(gate.unseen(), 0);
    gate.open(1);
    gate.entered(1).await;
    // Without a limit all go.
    deploy(&test, "g11-two", json!([])).await?;
    gate.entered(4).await;
    gate.open(5);
    for run in runs {
        soon("its end", run.result()).await?;
    }
    assert_eq!(
        number(&test, "select count(*) from conductor.lanes").await,
        0
    );
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_rate_lets_them_start_at_even_distances(test: TestConductor) -> anyhow::Result<()> {
    let log = Log::default();
    let workers = [
        start_with(&test, 20, Arc::clone(&log)).await?,
        start_with(&test, 20, Arc::clone(&log)).await?,
    ];
    let began = Instant::now();
    let runs = invoke_each::<G11Rated>(&test, (0..50).map(|n| G11Rated { n })).await?;
    for run in runs {
        soon("its end", run.result()).await?;
    }
    let mut starts: Vec<Instant> = log.lock().unwrap().iter().map(|(_, at)| *at).collect();
    starts.sort();
    // 50 ms apart, from the beginning on: on a busy machine the first one starts late, and the others do not.
    let all = starts[49] - began;
    assert!(all >= Duration::from_millis(2440), "{all:?}");
    for window in starts.windows(22) {
        let within = window[21] - window[0];
        assert!(within >= Duration::from_millis(900), "22 within {within:?}");
    }
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn a_rate_goes_by_the_databases_clock_and_by_key(test: TestConductor) -> anyhow::Result<()> {
    for tenant in ["a", "a", "a", "b"] {
        let tenant = tenant.to_owned();
        test.invoke::<G11RatedKey>(G11RatedKey { tenant }).await?;
    }
    const DONE: &str = "select count(*) from conductor.finished_executions";
    for done in [2, 3, 4, 4] {
        test.drain().await?;
        assert_eq!(number(&test, DONE).await, done);
        test.advance(Duration::from_secs(3600)).await?;
    }
    Ok(())
}

const FINISHED: &str = "select count(*) from conductor.finished_executions";
const MINUTE: Duration = Duration::from_secs(60);

#[conductor::test]
async fn a_burst_starts_at_once_and_comes_again_after_a_rest(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.invoke_batch::<G11Burst>([(); 10]).await?;
    test.drain().await?;
    assert_eq!(number(&test, FINISHED).await, 10);
    let ids = test.invoke_batch::<G11Burst>([(); 11]).await?;
    test.drain().await?;
    assert_eq!(number(&test, FINISHED).await, 20);
    let worker = test.orchestrator().build()?.start().await?;
    let why = test.why(*ids.last().unwrap()).await?;
    worker.stop().await?;
    let Reason::Rate {
        amount: 60,
        burst: 20,
        per_ms: 3_600_000,
        next_at,
        before: 0,
        ..
    } = why.reason
    else {
        panic!("{why:?}");
    };
    let wait = (next_at - test.now().await?).num_seconds();
    assert!((0..=60).contains(&wait), "{wait}");
    let words =
        "60 in 3600 s of task \"g11-burst\" may start, 20 at once after a rest, and the next";
    assert!(why.text.contains(words), "{why}");
    // Behind the burst they start at even distances.
    test.invoke_batch::<G11Burst>([(); 2]).await?;
    for done in [21, 22, 23, 23] {
        test.advance(MINUTE).await?;
        test.drain().await?;
        assert_eq!(number(&test, FINISHED).await, done);
    }
    // After a rest the burst is there again, and no more than that.
    test.advance(MINUTE * 60 * 24).await?;
    test.invoke_batch::<G11Burst>([(); 25]).await?;
    test.drain().await?;
    assert_eq!(number(&test, FINISHED).await, 43);
    Ok(())
}

#[conductor::test]
async fn a_rate_with_a_burst_holds_in_every_interval(test: TestConductor) -> anyhow::Result<()> {
    test.invoke_batch::<G11BurstBound>([(); 30]).await?;
    test.drain().await?;
    for _ in 0..14 {
        test.advance(MINUTE).await?;
        test.drain().await?;
    }
    test.advance(MINUTE * 20).await?;
    test.drain().await?;
    assert!(number(&test, FINISHED).await > 20);
    // The amount and the burst less one, and not less than that either.
    let most = "select max(n) from (
                    select (select count(*) from conductor.finished_executions o
                             where o.claimed_at >= f.claimed_at and o.claimed_at < f.claimed_at + interval '6 minutes') as n
                      from conductor.finished_executions f) k";
    assert_eq!(number(&test, most).await, 9);
    Ok(())
}

#[conductor::test]
async fn a_burst_is_each_keys_own(test: TestConductor) -> anyhow::Result<()> {
    for tenant in ["a", "a", "a", "b", "b"] {
        let tenant = tenant.to_owned();
        test.invoke::<G11BurstKey>(G11BurstKey { tenant }).await?;
    }
    for done in [4, 5, 5] {
        test.drain().await?;
        assert_eq!(number(&test, FINISHED).await, done);
        test.advance(MINUTE * 60).await?;
    }
    Ok(())
}

#[conductor::test]
async fn workers_share_a_burst(test: TestConductor) -> anyhow::Result<()> {
    let log = Log::default();
    let workers = [
        start_with(&test, 20, Arc::clone(&log)).await?,
        start_with(&test, 20, Arc::clone(&log)).await?,
    ];
    let runs = invoke_each::<G11BurstQuick>(&test, (0..40).map(|n| G11BurstQuick { n })).await?;
    for run in runs {
        soon("its end", run.result()).await?;
    }
    let mut starts: Vec<Instant> = log.lock().unwrap().iter().map(|(_, at)| *at).collect();
    starts.sort();
    // Thirty distances of 50 ms behind the burst, whose first may be late on a busy machine.
    let all = starts[39] - starts[0];
    assert!(all >= Duration::from_millis(1000), "{all:?}");
    // Had each worker a lane of its own, all would take half a second.
    for window in starts.windows(31) {
        let within = window[30] - window[0];
        assert!(within >= Duration::from_millis(700), "31 within {within:?}");
    }
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn what_is_parked_keeps_its_order(test: TestConductor) -> anyhow::Result<()> {
    let log = Log::default();
    let test = test.state(Arc::clone(&log));
    for (n, priority) in [(3, 0), (4, 0), (1, 5), (2, 5), (5, -1)] {
        test.invoke::<G11Ordered>(G11Ordered { n })
            .priority(priority)
            .await?;
    }
    test.drain().await?;
    let order: Vec<u32> = log.lock().unwrap().iter().map(|(n, _)| *n).collect();
    assert_eq!(order, [1, 2, 3, 4, 5]);
    Ok(())
}

#[conductor::test]
async fn a_parked_one_can_be_cancelled_and_a_paused_queue_rests(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let runs = invoke_each::<G11Two>(&test, (0..4).map(|n| G11Two { n })).await?;
    gate.entered(2).await;
    parked(&test, 2).await;
    assert!(test.cancel(runs[3].id()).await?);
    assert_eq!(runs[3].status().await?, Status::Cancelled);
    run_sql(&test, "select conductor.pause_queue('default')").await?;
    gate.open(2);
    soon("its end", runs[0].result()).await?;
    soon("its end", runs[1].result()).await?;
    let plain = test.invoke::<G11Plain>(()).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gate.unseen(), 0);
    assert_eq!(plain.status().await?, Status::Pending);
    run_sql(&test, "select conductor.resume_queue('default')").await?;
    gate.entered(1).await;
    gate.open(1);
    soon("its end", runs[2].result()).await?;
    soon("its end", plain.result()).await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn an_orderly_end_gives_slots_to_others(test: TestConductor) -> anyhow::Result<()> {
    let (gate, other) = (Gate::new(), Gate::new());
    let first = test
        .orchestrator()
        .worker(narrow(10))
        .allow_unserved_queues()
        .shutdown_deadline(Duration::from_millis(10))
        .state(Arc::clone(&gate))
        .build()?
        .start()
        .await?;
    let runs = invoke_each::<G11Two>(&test, (0..4).map(|n| G11Two { n })).await?;
    gate.entered(2).await;
    parked(&test, 2).await;
    let second = start_with(&test, 10, Arc::clone(&other)).await?;
    first.stop().await?;
    other.entered(2).await;
    other.open(4);
    for run in runs {
        soon("its end", run.result()).await?;
    }
    second.stop().await?;
    Ok(())
}

/// Seen by the handlers through the database: a session's lock is one that runs, and goes with its
/// process.
#[task(
    name = "g11-sampled",
    concurrency = 7,
    concurrency(limit = 3, key = payload.key),
    retry(max_attempts = 1)
)]
async fn g11_sampled(ctx: &TaskContext, key: i32, n: i32, millis: u64) -> anyhow::Result<()> {
    let conductor = ctx.state::<Conductor>();
    let mut connection = conductor.pool().acquire().await?;
    let connection = connection.acquire().await?;
    sqlx::query("select pg_advisory_lock($1, $2)")
        .bind(key)
        .bind(n)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into g11_samples (key, of_key, of_all)
         select $1, count(*) filter (where classid::int = $1), count(*)
           from pg_locks
          where locktype = 'advisory' and objsubid = 2 and classid::int between 1 and 4
            and database = (select oid from pg_database where datname = current_database())",
    )
    .bind(key)
    .execute(&mut *connection)
    .await?;
    tokio::time::sleep(Duration::from_millis(millis)).await;
    sqlx::query("select pg_advisory_unlock($1, $2)")
        .bind(key)
        .bind(n)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

#[conductor::test]
async fn four_processes_that_are_killed_never_exceed_it_and_reach_it(
    test: TestConductor,
) -> anyhow::Result<()> {
    const JOBS: i32 = 600;
    run_sql(
        &test,
        "create table g11_samples (key int, of_key bigint, of_all bigint)",
    )
    .await?;
    test.invoke_batch::<G11Sampled>((0..JOBS).map(|n| G11Sampled {
        key: 1 + n % 4,
        n,
        millis: u64::try_from(n * 7919 % 40).unwrap(),
    }))
    .await?;
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(Process::start(&test)?);
    }
    for kill in 0..6_usize {
        let seen = number(&test, "select count(*) from g11_samples").await;
        eventually("some more", || async {
            let now = number(&test, "select count(*) from g11_samples").await;
            now >= seen + 40 || now >= i64::from(JOBS)
        })
        .await;
        processes[kill % 4].kill()?;
        processes[kill % 4] = Process::start(&test)?;
    }
    eventually("all ends", || async {
        number(&test, "select count(*) from conductor.live_executions").await == 0
    })
    .await;
    let maxima: BTreeMap<i32, (i64, i64)> =
        sqlx::query_as("select key, max(of_key), max(of_all) from g11_samples group by key")
            .fetch_all(test.pool())
            .await?
            .into_iter()
            .map(|(key, of_key, of_all)| (key, (of_key, of_all)))
            .collect();
    assert_eq!(maxima.len(), 4);
    for (of_key, of_all) in maxima.values() {
        assert!(*of_key <= 3 && *of_all <= 7, "{maxima:?}");
    }
    assert!(
        maxima.values().any(|(of_key, _)| *of_key == 3),
        "{maxima:?}"
    );
    assert!(
        maxima.values().any(|(_, of_all)| *of_all == 7),
        "{maxima:?}"
    );
    let failed = number(
        &test,
        "select count(*) from conductor.finished_executions where state <> 'completed'",
    )
    .await;
    assert_eq!(failed, 0);
    eventually("the burial of the killed", || async {
        orchestrators(&test).await.unwrap() == 4
    })
    .await;
    for process in &processes {
        process.terminate()?;
    }
    eventually("the end of all", || async {
        orchestrators(&test).await.unwrap() == 0
    })
    .await;
    let holders = "select count(*) from conductor.lanes where holders <> '{}'";
    assert_eq!(number(&test, holders).await, 0);
    Ok(())
}

#[conductor::test]
async fn a_lane_that_nobody_looks_after_is_found(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let runs = invoke_each::<G11Two>(&test, (0..4).map(|n| G11Two { n })).await?;
    gate.entered(2).await;
    parked(&test, 2).await;
    let gone = "update conductor.live_executions set queue_id = -99999 where queue_id < 0 and state = 'pending'";
    sqlx::query(AssertSqlSafe(gone.to_owned()))
        .execute(test.pool())
        .await?;
    run_sql(&test, "select conductor.revive_lanes()").await?;
    gate.open(4);
    for run in runs {
        soon("its end", run.result()).await?;
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_rate_holds_for_those_that_come_one_by_one(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 10, Log::default()).await?;
    for n in 0..4 {
        let tenant = "a".to_owned();
        test.invoke::<G11RatedKey>(G11RatedKey { tenant }).await?;
        // Each finds the lane as the one before has left it.
        parked(&test, n).await;
        worker.drained().await?;
    }
    const DONE: &str = "select count(*) from conductor.finished_executions";
    assert_eq!(number(&test, DONE).await, 1);
    for done in [2, 3, 4] {
        test.advance(Duration::from_secs(3600)).await?;
        eventually("the next start", || async {
            number(&test, DONE).await == done
        })
        .await;
        worker.drained().await?;
        assert_eq!(number(&test, DONE).await, done);
    }
    worker.stop().await?;
    Ok(())
}

/// How many run now for each user and team, and how many did at most.
type Held = Arc<Mutex<BTreeMap<String, (i32, i32)>>>;

#[task(
    name = "g11-both",
    concurrency(limit = 1, key = payload.user),
    concurrency(limit = 2, key = payload.team)
)]
async fn g11_both(ctx: &TaskContext, user: String, team: String, ms: u64) -> anyhow::Result<()> {
    let count = |by: i32| {
        let mut held = ctx.state::<Held>().lock().unwrap();
        for key in [&user, &team] {
            let (now, most) = held.entry(key.clone()).or_default();
            *now += by;
            *most = (*most).max(*now);
        }
    };
    count(1);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    count(-1);
    Ok(())
}

#[conductor::test]
async fn several_keyed_limits_hold_together(test: TestConductor) -> anyhow::Result<()> {
    let held = Held::default();
    let jobs = (0..120_u64).map(|n| G11Both {
        user: format!("user {}", n * 31 % 5),
        team: format!("team {}", n * 17 % 3),
        ms: n * 7919 % 13,
    });
    test.invoke_batch::<G11Both>(jobs).await?;
    let first = start_with(&test, 10, Arc::clone(&held)).await?;
    let second = start_with(&test, 10, Arc::clone(&held)).await?;
    soon("all ends", first.drained()).await?;
    soon("all ends", second.drained()).await?;
    assert_eq!(
        crate::support::count(&test, "state = 'completed'").await?,
        120
    );
    let most: Vec<(String, i32)> = (held.lock().unwrap().iter())
        .map(|(key, (_, most))| (key.clone(), *most))
        .collect();
    assert_eq!(most.len(), 8);
    for (key, most) in &most {
        let limit = if key.starts_with("user") { 1 } else { 2 };
        assert!(*most <= limit, "{key}: {most}");
    }
    assert!(most.iter().any(|(_, most)| *most == 2), "{most:?}");
    first.stop().await?;
    second.stop().await?;
    Ok(())
}

/// Says that it has started, and waits for the test's word.
#[task(name = "g11-frozen", concurrency = 2)]
async fn g11_frozen(ctx: &TaskContext, n: i32) -> anyhow::Result<()> {
    let pool = ctx.state::<Conductor>().pool();
    sqlx::query("insert into g11_starts (n, pid) values ($1, $2)")
        .bind(n)
        .bind(i32::try_from(std::process::id())?)
        .execute(pool)
        .await?;
    loop {
        let open: bool = sqlx::query_scalar("select exists (select from g11_open)")
            .fetch_one(pool)
            .await?;
        if open {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[conductor::test]
async fn a_process_that_was_frozen_for_longer_than_its_lease_has_lost_its_slots(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(
        &test,
        "create table g11_starts (n int, pid int); create table g11_open (yes bool)",
    )
    .await?;
    let starts = "select count(*) from g11_starts";
    let slots =
        "select coalesce(sum(h.value::int), 0) from conductor.lanes a, jsonb_each(a.holders) h";
    let frozen = Process::start(&test)?;
    let runs = invoke_each::<G11Frozen>(&test, (0..4).map(|n| G11Frozen { n })).await?;
    eventually("two starts", || async { number(&test, starts).await == 2 }).await;
    frozen.freeze()?;
    let other = test
        .orchestrator()
        .worker(narrow(10))
        .allow_unserved_queues()
        .heartbeat(Duration::from_millis(200), Process::LEASE)
        .state((*test).clone())
        .build()?
        .start()
        .await?;
    eventually("two more", || async { number(&test, starts).await == 4 }).await;
    assert_eq!(number(&test, slots).await, 2);

    // It finds that it has lost them, and stops what it ran for them.
    frozen.go_on()?;
    eventually("a new identity", || async {
        orchestrators(&test).await.unwrap() == 2
    })
    .await;
    parked(&test, 2).await;
    assert_eq!(number(&test, slots).await, 2);
    assert_eq!(number(&test, starts).await, 4);

    run_sql(&test, "insert into g11_open (yes) values (true)").await?;
    for run in runs {
        soon("its end", run.result()).await?;
    }
    assert_eq!(number(&test, starts).await, 6);
    eventually("free lanes", || async { number(&test, slots).await == 0 }).await;
    other.stop().await?;
    frozen.terminate()?;
    Ok(())
}
