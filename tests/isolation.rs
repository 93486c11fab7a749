//! Handlers that block their threads harm neither the lease nor the work of others.

use std::io::Write;
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use uuid::Uuid;

use crate::support::{Process, eventually, info, soon};

/// Notes that it runs, and blocks its thread.
#[task(name = "isolation-blocks", retry(max_attempts = 1))]
async fn isolation_blocks(
    ctx: &TaskContext,
    journal: String,
    n: u32,
    millis: u64,
) -> anyhow::Result<u32> {
    ctx.step("work", || async {
        note(&journal, n)?;
        std::thread::sleep(Duration::from_millis(millis));
        anyhow::Ok(())
    })
    .await?;
    Ok(n)
}

#[task(name = "isolation-quick")]
async fn isolation_quick(_ctx: &TaskContext) -> anyhow::Result<u32> {
    Ok(std::process::id())
}

/// Has nothing left to do on its thread when it has blocked it.
#[task(name = "isolation-ends")]
async fn isolation_ends(_ctx: &TaskContext, journal: String, millis: u64) -> anyhow::Result<()> {
    note(&journal, 0)?;
    std::thread::sleep(Duration::from_millis(millis));
    Ok(())
}

fn note(journal: &str, n: u32) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(journal)?;
    // In one write: others add lines at the same time.
    Ok(file.write_all(format!("{n}\n").as_bytes())?)
}

/// A file to which handlers of all processes write; removed at the end.
struct Journal(std::path::PathBuf);

impl Journal {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("conductor-isolation-{}", Uuid::now_v7())))
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn lines(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut lines: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        lines.sort_unstable();
        lines
    }

    async fn has(&self, lines: usize) {
        eventually("handlers that block", || async {
            self.lines().len() >= lines
        })
        .await;
    }

    /// Invokes one that blocks for so long.
    async fn block(
        &self,
        test: &TestConductor,
        n: u32,
        block: Duration,
    ) -> anyhow::Result<conductor::Execution<IsolationBlocks>> {
        let millis = u64::try_from(block.as_millis())?;
        let journal = self.name();
        Ok(test
            .invoke::<IsolationBlocks>(IsolationBlocks { journal, n, millis })
            .await?)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// As many as the processes have threads, for longer than the lease.
#[conductor::test]
async fn as_many_blocking_handlers_as_threads_keep_the_lease(
    test: TestConductor,
) -> anyhow::Result<()> {
    let journal = Journal::new();
    let _processes = [Process::start(&test)?, Process::start(&test)?];
    let mut runs = Vec::new();
    for n in 0..4 {
        runs.push(journal.block(&test, n, Process::LEASE * 2).await?);
    }
    for run in &runs {
        soon("a blocking handler", run.result()).await?;
        let info = info(&test, run.id()).await?;
        assert_eq!((info.failures, info.crashes), (0, 0));
    }
    assert_eq!(journal.lines(), [0, 1, 2, 3]);
    Ok(())
}

/// The first handler's outcome is there before the thread on which it ran is free again.
#[conductor::test]
async fn outcomes_are_written_while_every_thread_blocks(test: TestConductor) -> anyhow::Result<()> {
    let journal = Journal::new();
    let _process = Process::start(&test)?;
    let long = Duration::from_secs(20);
    let ends = IsolationEnds {
        journal: journal.name(),
        millis: 1000,
    };
    let ends = test.invoke::<IsolationEnds>(ends).await?;
    let first = journal.block(&test, 1, long).await?;
    journal.has(2).await;
    let second = journal.block(&test, 2, long).await?;
    journal.has(3).await;
    eventually("the outcome", || async {
        info(&test, ends.id()).await.unwrap().state == Status::Completed
    })
    .await;
    for blocks in [first, second] {
        assert_eq!(info(&test, blocks.id()).await?.state, Status::Running);
    }
    Ok(())
}

/// What was claimed by a process none of whose threads is free is run by another one.
#[conductor::test]
async fn what_finds_no_thread_goes_to_another_process(test: TestConductor) -> anyhow::Result<()> {
    let journal = Journal::new();
    let blocked = Process::start(&test)?;
    let long = Duration::from_secs(60);
    journal.block(&test, 0, long).await?;
    journal.block(&test, 1, long).await?;
    journal.has(2).await;
    let mut quick = Vec::new();
    for _ in 0..5 {
        quick.push(test.invoke::<IsolationQuick>(()).await?);
    }
    let free = Process::start(&test)?;
    for run in quick {
        let process = soon("a quick one", run.result()).await?;
        assert_ne!(process, blocked.id());
        assert_eq!(process, free.id());
    }
    Ok(())
}

#[conductor::test]
async fn two_signals_end_a_process_whose_threads_all_block(
    test: TestConductor,
) -> anyhow::Result<()> {
    let journal = Journal::new();
    let mut process = Process::start(&test)?;
    let long = Duration::from_secs(300);
    journal.block(&test, 0, long).await?;
    journal.block(&test, 1, long).await?;
    journal.has(2).await;
    process.terminate()?;
    // What it claims no more shows that it has heard the first one; the next must be another signal.
    eventually("the end of claims", || async {
        let later = test.invoke::<IsolationQuick>(()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        info(&test, later.id()).await.unwrap().claim == 0
    })
    .await;
    process.terminate()?;
    assert_eq!(process.ended().await?.code(), Some(130));
    Ok(())
}

/// The first signal is enough where the handlers end in time: what they gave is written, the rest is left.
#[conductor::test]
async fn a_signal_is_heard_while_every_thread_blocks(test: TestConductor) -> anyhow::Result<()> {
    let journal = Journal::new();
    let mut process = Process::start(&test)?;
    let first = journal.block(&test, 0, Duration::from_secs(3)).await?;
    let second = journal.block(&test, 1, Duration::from_secs(3)).await?;
    journal.has(2).await;
    process.terminate()?;
    let ended = process.ended().await?;
    assert!(ended.success(), "{ended}");
    for run in [first, second] {
        assert_eq!(info(&test, run.id()).await?.state, Status::Completed);
    }
    Ok(())
}

/// Has a timeout, and holds its thread for longer.
#[task(name = "isolation-late", timeout = "1s", retry(max_attempts = 1))]
async fn isolation_late(_ctx: &TaskContext, millis: u64) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_millis(millis));
    Ok(())
}

#[task(name = "isolation-late-step", retry(max_attempts = 1))]
async fn isolation_late_step(ctx: &TaskContext) -> anyhow::Result<()> {
    let step = ctx.step("slow", || async {
        std::thread::sleep(Duration::from_millis(300));
        anyhow::Ok(())
    });
    step.timeout(Duration::from_millis(100)).await
}

/// It is told of while it blocks, and has timed out when it yields, whatever it gives.
#[conductor::test]
async fn one_that_blocks_past_its_timeout_is_told_of_and_has_timed_out(
    test: TestConductor,
) -> anyhow::Result<()> {
    let log = std::env::temp_dir().join(format!("conductor-isolation-{}.log", Uuid::now_v7()));
    let process = Process::logging(test.url(), &log)?;
    let run = test
        .invoke::<IsolationLate>(IsolationLate { millis: 8000 })
        .await?;
    eventually("the log's line", || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("past its timeout and does not yield") && text.contains(&run.id().to_string())
    })
    .await;
    let why = test.why(run.id()).await?.to_string();
    assert!(why.contains("its timeout of 00:00:01 is over"), "{why}");
    assert!(why.contains("does not yield"), "{why}");
    let error = soon("its end", run.result()).await.unwrap_err().to_string();
    assert!(error.contains("timed out after 1s"), "{error}");
    drop(process);
    let text = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    assert_eq!(text.matches("past its timeout").count(), 1, "{text}");
    Ok(())
}

#[conductor::test]
async fn a_step_that_blocks_past_its_timeout_has_timed_out(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<IsolationLateStep>(()).await?;
    test.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(error.contains("\"slow\" timed out after 100ms"), "{error}");
    Ok(())
}

const ALONE: &str = "CONDUCTOR_SUITE_ALONE";
const URL: &str = "CONDUCTOR_SUITE_ALONE_URL";

/// Runs one of the functions below in a process of its own, whose threads and signals are known.
fn alone(test: &TestConductor, what: &str) -> anyhow::Result<std::process::Child> {
    Ok(std::process::Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "isolation::in_a_process_of_its_own",
            "--nocapture",
        ])
        .env(ALONE, what)
        .env(URL, test.url())
        .stdout(std::process::Stdio::null())
        .spawn()?)
}

async fn ended(mut child: std::process::Child) -> Option<i32> {
    let mut status = None;
    eventually("the process's end", || {
        status = child.try_wait().unwrap();
        std::future::ready(status.is_some())
    })
    .await;
    status.unwrap().code()
}

/// Does nothing in the suite.
#[test]
fn in_a_process_of_its_own() -> anyhow::Result<()> {
    let Ok(what) = std::env::var(ALONE) else {
        return Ok(());
    };
    let url = std::env::var(URL)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match what.as_str() {
        "threads" => threads_end(&url, &runtime),
        "runtime" => without_its_runtime(&url, runtime),
        _ => runtime.block_on(runs_alone(&url)),
    }
}

fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    // One that has just ended has no name any more.
    names
        .filter(|name| {
            name.as_ref()
                .is_ok_and(|name| name.starts_with("conductor"))
        })
        .count()
}

async fn starts(url: &str) -> anyhow::Result<conductor::Handle> {
    let conductor = conductor::Conductor::connect_to(url).await?;
    let orchestrator = conductor::Orchestrator::builder(conductor.clone()).state(conductor);
    Ok(orchestrator.build()?.start().await?)
}

fn threads_end(url: &str, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    runtime.block_on(async {
        let handle = starts(url).await?;
        let two = starts(url).await?;
        assert_eq!(threads(), 4);
        handle.stop().await?;
        drop(two);
        eventually("the end of the threads", || async { threads() == 0 }).await;
        anyhow::Ok(())
    })
}

/// The handle lives on where its runtime does not.
fn without_its_runtime(url: &str, runtime: tokio::runtime::Runtime) -> anyhow::Result<()> {
    let handle = runtime.block_on(starts(url))?;
    drop(runtime);
    let another = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    another.block_on(async {
        eventually("the end of the threads", || async { threads() == 0 }).await;
        handle.stop().await?;
        anyhow::Ok(())
    })
}

async fn runs_alone(url: &str) -> anyhow::Result<()> {
    let conductor = conductor::Conductor::connect_to(url).await?;
    conductor::Orchestrator::builder(conductor.clone())
        .shutdown_deadline(Duration::from_secs(1))
        .state(conductor)
        .build()?
        .run()
        .await?;
    Ok(())
}

#[conductor::test]
async fn no_thread_stays_behind(test: TestConductor) -> anyhow::Result<()> {
    assert_eq!(ended(alone(&test, "threads")?).await, Some(0));
    Ok(())
}

#[conductor::test]
async fn a_runtime_that_ends_without_a_stop_gives_back_what_it_held(
    test: TestConductor,
) -> anyhow::Result<()> {
    assert_eq!(ended(alone(&test, "runtime")?).await, Some(0));
    assert_eq!(crate::support::orchestrators(&test).await?, 0);
    Ok(())
}

/// Not even the thread that waits for the end of `run` is free.
#[conductor::test]
async fn a_process_whose_only_thread_blocks_ends_behind_its_deadline(
    test: TestConductor,
) -> anyhow::Result<()> {
    let journal = Journal::new();
    let process = alone(&test, "run")?;
    let run = journal.block(&test, 0, Duration::from_secs(300)).await?;
    journal.has(1).await;
    let id = process.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()?
            .success()
    );
    assert_eq!(ended(process).await, Some(0));
    let info = info(&test, run.id()).await?;
    assert_eq!((info.state, info.crashes), (Status::Pending, 0));
    assert_eq!(crate::support::orchestrators(&test).await?, 0);
    Ok(())
}

/// Whoever waits for the end is told why, when all is given back.
#[conductor::test]
async fn a_pool_that_the_application_closes_is_an_orderly_end_and_an_error(
    test: TestConductor,
) -> anyhow::Result<()> {
    for stops in [false, true] {
        let client = conductor::Conductor::connect_to(test.url()).await?;
        let orchestrator = conductor::Orchestrator::builder(client.clone()).state(client.clone());
        let orchestrator = orchestrator.build()?;
        let before = crate::support::orchestrators(&test).await?;
        let error = if stops {
            let handle = orchestrator.start().await?;
            client.pool().close().await;
            soon("the end", handle.stop()).await
        } else {
            let run = tokio::spawn(orchestrator.run());
            eventually("its lease", || async {
                crate::support::orchestrators(&test).await.unwrap() > before
            })
            .await;
            client.pool().close().await;
            soon("the end", run).await?
        };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("has closed its pool"), "{error}");
        assert_eq!(crate::support::orchestrators(&test).await?, before);
    }
    Ok(())
}
