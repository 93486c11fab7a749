use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use conductor::prelude::*;

use crate::database::Server;
use crate::report::Report;
use crate::tasks::{Listen, Paid, Ping, Receipt, Ship, Shout, take_marks};

const CALLERS: usize = 10;
/// Executions that wait beside the one whose wake-up is timed.
const OTHERS: i64 = 100_000;
/// Wake-ups that are timed, and those before, which open connections and make plans.
const WAKES: i64 = 200;
const FIRST: i64 = 10;
/// Executions that wait for the same event.
const CROWD: i64 = 10_000;

/// Emits a second, and how quickly those who wait go on.
pub(crate) async fn measure(
    server: &Server,
    jobs: usize,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..runs {
        rates[0].push(lonely(server, jobs).await?);
        rates[1].push(triggering(server, jobs).await?);
        let (emitted, done) = waking(server, jobs).await?;
        rates[2].push(emitted);
        rates[3].push(done);
    }
    let [lonely, triggering, waking, woken] = &mut rates;
    report.ratio("events: one trigger over no subscriber", triggering, lonely);
    report.ratio(
        "events: one waiting each over no subscriber",
        waking,
        lonely,
    );
    report.rate("emits, no subscriber, 10 callers", lonely);
    report.rate("emits, one trigger, 10 callers", triggering);
    report.rate("emits, one waiting execution each, 10 callers", waking);
    report.rate("the same, until all have ended", woken);
    wake_among_others(server, report).await?;
    crowd(server, report).await
}

async fn lonely(server: &Server, jobs: usize) -> anyhow::Result<f64> {
    let fresh = server.fresh().await?;
    fresh.conductor.emit(Ping { n: -1 }).await?;
    let rate = emits(&fresh.conductor, jobs, |n| Ping { n }).await?;
    fresh.close().await?;
    Ok(rate)
}

/// The executions are made and not run.
async fn triggering(server: &Server, jobs: usize) -> anyhow::Result<f64> {
    let fresh = server.fresh().await?;
    start(&fresh.conductor).await?.stop().await?;
    fresh.conductor.emit(Receipt { n: -1 }).await?;
    let rate = emits(&fresh.conductor, jobs, |n| Receipt { n }).await?;
    let made: i64 = sqlx::query_scalar("select count(*) from conductor.live_executions")
        .fetch_one(fresh.conductor.pool())
        .await?;
    anyhow::ensure!(made == jobs as i64 + 1, "{made} executions were made");
    fresh.close().await?;
    Ok(rate)
}

/// The workers run, so they take their part of the machine. Until the last emit, and until the last end.
async fn waking(server: &Server, jobs: usize) -> anyhow::Result<(f64, f64)> {
    let fresh = server.fresh().await?;
    let worker = start(&fresh.conductor).await?;
    wait(&fresh.conductor, 0..jobs as i64).await?;
    let began = Instant::now();
    let rate = emits(&fresh.conductor, jobs, |order| Paid { order }).await?;
    ended(&fresh.conductor, jobs as i64).await?;
    let all = jobs as f64 / began.elapsed().as_secs_f64();
    worker.stop().await?;
    fresh.close().await?;
    Ok((rate, all))
}

/// All wait for the same name, each for an order of its own.
async fn wake_among_others(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let fresh = server.fresh().await?;
    let worker = start(&fresh.conductor).await?;
    wait(&fresh.conductor, 0..OTHERS + FIRST + WAKES).await?;
    sqlx::query("vacuum analyze")
        .execute(fresh.conductor.pool())
        .await?;
    take_marks();
    let (mut to_emit, mut to_handler) = (Vec::new(), Vec::new());
    for n in 0..FIRST + WAKES {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        fresh.conductor.emit(Paid { order: OTHERS + n }).await?;
        let emitted = began.elapsed();
        let woken = loop {
            if let [mark, ..] = take_marks()[..] {
                break mark.duration_since(began);
            }
            anyhow::ensure!(began.elapsed().as_secs() < 60, "nobody was woken");
            tokio::time::sleep(Duration::from_micros(200)).await;
        };
        if n >= FIRST {
            to_emit.push(emitted.as_secs_f64() * 1e3);
            to_handler.push(woken.as_secs_f64() * 1e3);
        }
    }
    worker.stop().await?;
    fresh.close().await?;
    let name = format!("one wakes among {OTHERS} others");
    report.percentiles(&format!("{name}, emit"), &mut to_emit);
    report.percentiles(&format!("{name}, call to handler"), &mut to_handler);
    Ok(())
}

/// All wait for the same event.
async fn crowd(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let fresh = server.fresh().await?;
    let worker = start(&fresh.conductor).await?;
    fresh
        .conductor
        .invoke_batch::<Listen>((0..CROWD).map(|_| ()))
        .await?;
    waiting(&fresh.conductor, CROWD).await?;
    let began = Instant::now();
    fresh.conductor.emit(Shout {}).await?;
    let emitted = began.elapsed();
    ended(&fresh.conductor, CROWD).await?;
    let all = began.elapsed();
    worker.stop().await?;
    fresh.close().await?;
    report.millis(&format!("{CROWD} wake for one event, emit"), emitted);
    report.millis(
        &format!("{CROWD} wake for one event, until all have ended"),
        all,
    );
    Ok(())
}

async fn start(conductor: &Conductor) -> anyhow::Result<conductor::Handle> {
    Ok(Orchestrator::builder(conductor.clone())
        .build()?
        .start()
        .await?)
}

/// Executions that wait for the payment of these orders.
async fn wait(conductor: &Conductor, orders: std::ops::Range<i64>) -> anyhow::Result<()> {
    let many = orders.end - orders.start;
    conductor
        .invoke_batch::<Ship>(orders.map(|order| Ship { order }))
        .await?;
    waiting(conductor, many).await
}

async fn waiting(conductor: &Conductor, many: i64) -> anyhow::Result<()> {
    reached(
        conductor,
        "select count(*) from conductor.live_executions where state = 'suspended'",
        many,
    )
    .await
}

async fn ended(conductor: &Conductor, many: i64) -> anyhow::Result<()> {
    reached(
        conductor,
        "select count(*) from conductor.finished_executions where state = 'completed'",
        many,
    )
    .await
}

async fn reached(conductor: &Conductor, count: &'static str, many: i64) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let found: i64 = sqlx::query_scalar(count)
            .fetch_one(conductor.pool())
            .await?;
        if found == many {
            return Ok(());
        }
        anyhow::ensure!(
            began.elapsed().as_secs() < 600,
            "{found} of {many}: {count}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn emits<E: Event>(
    conductor: &Conductor,
    jobs: usize,
    event: fn(i64) -> E,
) -> anyhow::Result<f64> {
    let next = Arc::new(AtomicI64::new(0));
    let began = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (conductor, next) = (conductor.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= jobs as i64 {
                        return Ok::<_, conductor::Error>(());
                    }
                    conductor.emit(event(n)).await?;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}
