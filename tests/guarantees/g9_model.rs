//! G9 at random, against a model: clients, transactions that commit late or not at all, SQL and tasks
//! emit, while executions are made that wait with filters and processes are killed. Each execution must
//! have heard exactly the events that its filter lets through, since it was created, in their order.
//!
//! `MODEL_CASES` says how many cases are tried, `MODEL_SEED` which ones; a failure names its seed.

mod emitter;
mod listener;
mod verdict;

use std::time::{Duration, Instant};

use conductor::testing::TestConductor;
use uuid::Uuid;

use crate::support::{Process, eventually, number};
use emitter::{Said, emit_all};
use listener::{G9ModelListen, KINDS};
use verdict::check;

/// Cases of the normal suite.
const CASES: u64 = 2;
const EMITTERS: u64 = 6;
const EVENTS: u64 = 12;
const LISTENERS: u64 = 12;
const GROUPS: u64 = 3;

/// Splitmix64: enough to vary, and the same everywhere.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    async fn pause(&mut self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(self.roll(millis))).await;
    }
}

/// An execution that listens, and when it was made.
struct Listener {
    id: Uuid,
    kind: u64,
    asked: Instant,
    made: Instant,
}

#[test]
fn each_hears_exactly_what_was_said_since_it_was_there() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let variable = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    let seed = variable("MODEL_SEED").unwrap_or_else(|| Uuid::now_v7().as_u64_pair().1);
    for case in 0..variable("MODEL_CASES").unwrap_or(CASES) {
        let seed = seed.wrapping_add(case);
        println!("MODEL_SEED={seed}");
        if let Err(error) = runtime.block_on(trial(seed)) {
            panic!("MODEL_SEED={seed}\n{error:#}");
        }
    }
}

async fn trial(seed: u64) -> anyhow::Result<()> {
    let test = TestConductor::new().await?;
    let mut dice = Dice(seed);
    let mut processes = [Process::start(&test)?, Process::start(&test)?];
    eventually("the workers", || async {
        number(&test, "select count(*) from conductor.orchestrators").await == 2
    })
    .await;

    let emitters: Vec<_> = (0..EMITTERS)
        .map(|n| {
            let (conductor, dice) = ((*test).clone(), Dice(seed ^ (n + 1) << 32));
            tokio::spawn(emit_all(conductor, dice, n))
        })
        .collect();
    let mut listeners = Vec::new();
    for n in 0..LISTENERS {
        dice.pause(40).await;
        let kind = dice.roll(KINDS);
        let asked = Instant::now();
        let payload = G9ModelListen {
            kind,
            naps: dice.roll(2) == 0,
        };
        let id = test.invoke::<G9ModelListen>(payload).await?.id();
        listeners.push(Listener {
            id,
            kind,
            asked,
            made: Instant::now(),
        });
        if n % 5 == 4 {
            let process = &mut processes[dice.roll(2) as usize];
            process.kill()?;
            *process = Process::start(&test)?;
        }
    }
    let mut said = Vec::new();
    for emitter in emitters {
        said.extend(emitter.await??);
    }
    // What was emitted last in transactions and by tasks must be in the log before the end is said.
    eventually("the log", || async {
        let open = "select (select count(*) from conductor.event_inbox)
                         + (select count(*) from conductor.live_executions l
                              join conductor.tasks t on t.id = l.task_id and t.name = 'g9-model.say')";
        number(&test, open).await == 0
    })
    .await;
    for group in 0..GROUPS {
        test.emit(Said::end(group)).await?;
    }
    let ended = "select count(*) from conductor.live_executions";
    eventually("the end of all", || async {
        number(&test, ended).await == 0
    })
    .await;
    check(&test, &said, &listeners).await
}
