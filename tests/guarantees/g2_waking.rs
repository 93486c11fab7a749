//! G2: a process that wakes behind the end of its lease begins nothing of what others have done meanwhile, and
//! leaves nothing behind where it keeps the lease after all.

use std::fs::{File, read_to_string};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Orchestrator};
use uuid::Uuid;

use crate::support::{Gate, Process, Proxy, eventually, info, number, soon};

const EXECUTIONS: usize = 800;
/// Threads of such a process. Each may have been stopped between its look at the lease and the body.
const THREADS: usize = 2;

/// Outside of the database, whose writes are fenced. One line each, whole.
fn note(path: &Path) -> std::io::Result<()> {
    let line = format!("{} {}\n", std::process::id(), now());
    File::options()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(line.as_bytes())
}

/// In microseconds.
fn now() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_micros()
}

/// Notes of one process from then on.
fn notes(path: &Path, process: u32, from: u128) -> usize {
    let text = read_to_string(path).unwrap_or_default();
    let notes = text.lines().filter(|line| {
        let (of, at) = line.split_once(' ').unwrap();
        of.parse() == Ok(process) && at.parse::<u128>().unwrap() >= from
    });
    notes.count()
}

#[task(name = "g2-waking")]
async fn g2_waking(ctx: &TaskContext, path: PathBuf) -> anyhow::Result<()> {
    note(&path)?;
    tokio::time::sleep(Duration::from_millis(30)).await;
    ctx.step("noted", || async { note(&path) }).await
}

#[task(name = "g2-waking-batch", batch(max_size = 4))]
async fn g2_waking_batch(_ctx: &BatchContext, items: Vec<PathBuf>) -> anyhow::Result<Vec<()>> {
    note(&items[0])?;
    tokio::time::sleep(Duration::from_millis(30)).await;
    Ok(items.iter().map(|_| ()).collect())
}

async fn begins_nothing<T: Task>(
    test: &TestConductor,
    payload: impl Fn(PathBuf) -> T::Payload,
) -> anyhow::Result<()> {
    let path = std::env::temp_dir().join(format!("conductor-waking-{}", Uuid::now_v7()));
    let sleeper = Process::start(test)?;
    eventually("it works", async || {
        number(test, "select count(*) from conductor.orchestrators").await == 1
    })
    .await;
    let payloads = (0..EXECUTIONS).map(|_| payload(path.clone()));
    test.invoke_batch::<T>(payloads).await?;
    eventually("notes", async || notes(&path, sleeper.id(), 0) > 100).await;
    sleeper.freeze()?;
    let held = "select count(*) from conductor.live_executions where orchestrator_id is not null";
    assert!(number(test, held).await > 0);
    let other = Process::start(test)?;
    eventually("the other one has done all", async || {
        number(test, "select count(*) from conductor.live_executions").await == 0
    })
    .await;

    let woke = now();
    let taken = number(test, "select max(id) from conductor.orchestrators").await;
    sleeper.go_on()?;
    eventually("a new identity", async || {
        number(test, "select max(id) from conductor.orchestrators").await > taken
    })
    .await;
    let begun = notes(&path, sleeper.id(), woke);
    assert!(begun <= THREADS, "{begun} bodies of others");
    std::fs::remove_file(&path)?;
    drop(other);
    Ok(())
}

#[conductor::test]
async fn neither_handlers_nor_steps(test: TestConductor) -> anyhow::Result<()> {
    begins_nothing::<G2Waking>(&test, |path| G2Waking { path }).await
}

#[conductor::test]
async fn no_batches_either(test: TestConductor) -> anyhow::Result<()> {
    begins_nothing::<G2WakingBatch>(&test, |path| path).await
}

struct Gates {
    one: Arc<Gate>,
    other: Arc<Gate>,
}

#[task(name = "g2-one-at-once", concurrency = 1)]
async fn g2_one_at_once(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    if n == 1 {
        ctx.state::<Gates>().one.pass().await;
    }
    Ok(n)
}

#[task(name = "g2-beside")]
async fn g2_beside(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Gates>().other.pass().await;
    Ok(())
}

#[conductor::test]
async fn a_lease_that_was_in_doubt_keeps_no_slots(test: TestConductor) -> anyhow::Result<()> {
    let proxy = Proxy::of(&test).await?;
    let (one, other) = (Gate::new(), Gate::new());
    let handle = Orchestrator::builder(Conductor::connect_to(&proxy.url()).await?)
        .heartbeat(Duration::from_secs(1), Duration::from_secs(6))
        .state(Gates {
            one: Arc::clone(&one),
            other: Arc::clone(&other),
        })
        .build()?
        .start()
        .await?;
    let beside = test.invoke::<G2Beside>(()).await?;
    other.entered(1).await;
    test.invoke::<G2OneAtOnce>(G2OneAtOnce { n: 1 }).await?;
    one.entered(1).await;
    let second = test.invoke::<G2OneAtOnce>(G2OneAtOnce { n: 2 }).await?;
    eventually("the second one is parked", async || {
        number(&test, "select count(*) from conductor.live_executions where queue_id < 0 and state = 'pending'").await == 1
    })
    .await;

    proxy.hold(true);
    // Its end and its slot cannot be told any more.
    one.open(1);
    other.dropped().await;
    proxy.hold(false);
    assert_eq!(soon("the second one", second.result()).await?, 2);
    other.entered(1).await;
    other.open(1);
    soon("the one beside", beside.result()).await?;
    let info = info(&test, beside.id()).await?;
    assert_eq!((info.crashes, info.failures), (0, 0), "the lease was kept");
    handle.stop().await?;
    Ok(())
}
