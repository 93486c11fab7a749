//! Four queues with a worker each, in one process: slow jobs do not delay quick ones.
//!
//! In one terminal, the workers. They draw the progress of their handlers, or print one line per job
//! if the output is not a terminal:
//!
//!     cargo run --example 06_queues
//!
//! In another one, invoke ten jobs for each queue:
//!
//!     cargo run --example 06_queues -- invoke flood n=10
//!
//! | queue | handlers at once | a job takes | ten jobs take |
//! | --- | --- | --- | --- |
//! | fast | 5 | 100 ms | 0.2 s |
//! | default | 2 | 300 ms | 1.5 s |
//! | normal | 3 | 500 ms | 2 s |
//! | slow | 1 | 2 s | 20 s |
//!
//! While the slow jobs run:
//!
//!     cargo run --example 06_queues -- queues
//!     cargo run --example 06_queues -- queues pause slow
//!     cargo run --example 06_queues -- list --queue slow --state pending
//!     cargo run --example 06_queues -- why ID
//!     cargo run --example 06_queues -- queues resume slow
//!
//! In a paused queue, the running job continues, and the others wait: `the queue "slow" is paused`. A
//! second process with more handlers takes its share of the slow jobs:
//!
//!     cargo run --example 06_queues -- worker --queue slow:4

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conductor::prelude::*;

/// A job in the queue of tasks without `queue`.
#[task(name = "job-default")]
async fn job_default(_ctx: &TaskContext, n: u32, board: State<Board>) -> anyhow::Result<()> {
    board.work("default", n, Duration::from_millis(300)).await;
    Ok(())
}

/// A quick job.
#[task(name = "job-fast", queue = "fast")]
async fn job_fast(_ctx: &TaskContext, n: u32, board: State<Board>) -> anyhow::Result<()> {
    board.work("fast", n, Duration::from_millis(100)).await;
    Ok(())
}

/// A slow job.
#[task(name = "job-slow", queue = "slow")]
async fn job_slow(_ctx: &TaskContext, n: u32, board: State<Board>) -> anyhow::Result<()> {
    board.work("slow", n, Duration::from_secs(2)).await;
    Ok(())
}

/// A normal job.
#[task(name = "job-normal", queue = "normal")]
async fn job_normal(_ctx: &TaskContext, n: u32, board: State<Board>) -> anyhow::Result<()> {
    board.work("normal", n, Duration::from_millis(500)).await;
    Ok(())
}

/// Invokes `n` jobs for each queue and does not wait for them.
#[task]
async fn flood(ctx: &TaskContext, n: u32, conductor: State<Conductor>) -> anyhow::Result<u32> {
    // Invokes all or none, exactly once, although this handler can run twice. `ctx.invoke` would wait for results.
    ctx.transaction("flood", async |tx| {
        for n in 1..=n {
            conductor
                .invoke::<JobDefault>(JobDefault { n })
                .in_transaction(&mut *tx)
                .await?;
            conductor
                .invoke::<JobFast>(JobFast { n })
                .in_transaction(&mut *tx)
                .await?;
            conductor
                .invoke::<JobSlow>(JobSlow { n })
                .in_transaction(&mut *tx)
                .await?;
            conductor
                .invoke::<JobNormal>(JobNormal { n })
                .in_transaction(&mut *tx)
                .await?;
        }
        anyhow::Ok(())
    })
    .await?;
    Ok(n * 4)
}

/// The state of the handlers in this process.
#[derive(Clone)]
struct Board(Arc<Mutex<Vec<Lane>>>);

/// One queue, with a place for each handler.
struct Lane {
    queue: &'static str,
    jobs: Vec<Option<Job>>,
    done: u32,
}

#[derive(Clone, Copy)]
struct Job {
    n: u32,
    began: Instant,
    takes: Duration,
}

/// The columns of a progress bar.
const BAR: usize = 8;

impl Board {
    fn new(queues: [(&'static str, usize); 4]) -> Self {
        let lane = |(queue, handlers)| Lane {
            queue,
            jobs: vec![None; handlers],
            done: 0,
        };
        Self(Arc::new(Mutex::new(queues.map(lane).into())))
    }

    fn with_lane<T>(&self, queue: &str, change: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes
            .iter_mut()
            .find(|lane| lane.queue == queue)
            .map(change)
    }

    /// Simulates work and shows its progress.
    async fn work(&self, queue: &'static str, n: u32, takes: Duration) {
        let began = Instant::now();
        let place = self.with_lane(queue, |lane| {
            let free = lane.jobs.iter().position(Option::is_none);
            let job = Job { n, began, takes };
            // With `--queue slow:4` there are more handlers than places.
            let place = free.unwrap_or_else(|| {
                lane.jobs.push(None);
                lane.jobs.len() - 1
            });
            lane.jobs[place] = Some(job);
            place
        });
        tokio::time::sleep(takes).await;
        self.with_lane(queue, |lane| {
            if let Some(place) = place {
                lane.jobs[place] = None;
            }
            lane.done += 1;
        });
        if !std::io::stdout().is_terminal() {
            println!("{queue}: job {n} done after {:?}", began.elapsed());
        }
    }

    /// Returns one line per queue, with a bar for each handler.
    fn picture(&self) -> String {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut picture = String::new();
        for lane in lanes.iter() {
            let _ = write!(picture, "{:<8}{:>5} done ", lane.queue, lane.done);
            for job in &lane.jobs {
                let Some(Job { n, began, takes }) = job else {
                    let _ = write!(picture, " {:4}[{}]", "", "·".repeat(BAR));
                    continue;
                };
                let part = began.elapsed().as_secs_f64() / takes.as_secs_f64();
                let full = ((part * BAR as f64) as usize).min(BAR);
                let _ = write!(
                    picture,
                    " {n:>4}[{}{}]",
                    "#".repeat(full),
                    "·".repeat(BAR - full)
                );
            }
            // Clears the rest of the previous line.
            picture.push_str("\x1b[K\n");
        }
        picture
    }

    /// Redraws the picture if it has changed, at most ten times a second.
    async fn draw(self) {
        let mut before = String::new();
        loop {
            let picture = self.picture();
            if picture != before {
                let up = before.lines().count();
                let over = if up > 0 {
                    format!("\x1b[{up}A")
                } else {
                    String::new()
                };
                let mut out = std::io::stdout();
                // Ignores errors, for example if the terminal is closed.
                let _ = write!(out, "{over}\r{picture}").and_then(|()| out.flush());
                before = picture;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

conductor::main! {
    workers: [
        Worker::queue("default").concurrency(2),
        Worker::queue("fast").concurrency(5),
        Worker::queue("slow").concurrency(1),
        Worker::queue("normal").concurrency(3),
    ],
    setup: async |app| {
        let board = Board::new([("default", 2), ("fast", 5), ("slow", 1), ("normal", 3)]);
        if std::io::stdout().is_terminal() {
            tokio::spawn(board.clone().draw());
        }
        let conductor = app.conductor().clone();
        Ok(app.state(board).state(conductor))
    },
}
