//! What may befall a database and the way to it.

mod answers;
mod locked;
mod network;
mod outage;
mod refusals;
mod server;
mod shutdown;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conductor::prelude::*;
use conductor::{Handle, Orchestrator};
use uuid::Uuid;

use crate::support::{narrow, soon};

/// How often each body began.
#[derive(Debug, Clone, Default)]
struct Bodies(Arc<Mutex<HashMap<(Uuid, &'static str), u32>>>);

impl Bodies {
    fn begin(&self, execution: Uuid, key: &'static str) {
        *self.0.lock().unwrap().entry((execution, key)).or_default() += 1;
    }

    /// How many there were, where each began once.
    fn each_once(&self) -> usize {
        let bodies = self.0.lock().unwrap();
        let again: Vec<_> = bodies.iter().filter(|(_, times)| **times != 1).collect();
        assert!(again.is_empty(), "{again:?}");
        bodies.len()
    }
}

#[event(name = "faults.told")]
struct FaultsTold {
    n: i64,
}

/// Something of everything.
#[task(name = "faults.workflow", retry(max_attempts = 1))]
async fn faults_workflow(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let bodies = ctx.state::<Bodies>();
    let id = ctx.execution_id();
    let n: i64 = ctx
        .step("step", || async {
            bodies.begin(id, "step");
            anyhow::Ok(n + 1)
        })
        .await?;
    let n: i64 = ctx
        .transaction("transaction", async |tx| {
            bodies.begin(id, "transaction");
            sqlx::query("insert into effects values ($1)")
                .bind(id)
                .execute(tx)
                .await?;
            anyhow::Ok(n + 1)
        })
        .await?;
    ctx.emit("told", FaultsTold { n }).await?;
    ctx.sleep("sleep", Duration::from_millis(1)).await?;
    let n = ctx
        .invoke::<FaultsChild>("child", FaultsChild { n })
        .await?;
    ctx.step("end", || async {
        bodies.begin(id, "end");
        anyhow::Ok(())
    })
    .await?;
    Ok(n)
}

/// The same without a transaction of its own, whose body no one could run again.
#[task(name = "faults.durable", retry(max_attempts = 1))]
async fn faults_durable(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    let bodies = ctx.state::<Bodies>();
    let id = ctx.execution_id();
    let n: i64 = ctx
        .step("step", || async {
            bodies.begin(id, "step");
            anyhow::Ok(n + 1)
        })
        .await?;
    ctx.emit("told", FaultsTold { n }).await?;
    ctx.sleep("sleep", Duration::from_millis(1)).await?;
    let n = ctx
        .invoke::<FaultsChild>("child", FaultsChild { n })
        .await?;
    ctx.step("end", || async {
        bodies.begin(id, "end");
        anyhow::Ok(())
    })
    .await?;
    Ok(n)
}

#[task(name = "faults.child", retry(max_attempts = 1))]
async fn faults_child(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    ctx.state::<Bodies>().begin(ctx.execution_id(), "child");
    Ok(n + 1)
}

/// Started by the event.
#[task(name = "faults.heard", event(FaultsTold), retry(max_attempts = 1))]
async fn faults_heard(_ctx: &TaskContext, payload: FaultsTold) -> anyhow::Result<i64> {
    Ok(payload.n)
}

/// A large output.
#[task(name = "faults.large", retry(max_attempts = 1))]
async fn faults_large(ctx: &TaskContext, bytes: usize) -> anyhow::Result<String> {
    ctx.state::<Bodies>().begin(ctx.execution_id(), "large");
    // Random enough that it is not compressed away.
    let texts = std::iter::repeat_with(|| Uuid::now_v7().simple().to_string());
    Ok(texts.take(bytes / 32).collect())
}

const EFFECTS: &str = "create table effects (execution uuid)";

async fn start(conductor: &Conductor, bodies: &Bodies) -> anyhow::Result<Handle> {
    let orchestrator = Orchestrator::builder(conductor.clone())
        .worker(narrow(20))
        .allow_unserved_queues()
        .state(bodies.clone())
        .build()?;
    Ok(orchestrator.start().await?)
}

async fn outputs<T: Task<Output = i64>>(runs: &[Execution<T>]) -> anyhow::Result<Vec<i64>> {
    let mut outputs = Vec::new();
    for run in runs {
        outputs.push(soon("a result", run.result()).await?);
    }
    Ok(outputs)
}

/// Invokes durable ones, and expects that each has run once, whatever happens meanwhile.
async fn durable_ones(
    conductor: &Conductor,
    many: i64,
    bodies: &Bodies,
    meanwhile: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let invoking = async {
        let mut runs = Vec::new();
        for n in 0..many {
            runs.push(
                conductor
                    .invoke::<FaultsDurable>(FaultsDurable { n })
                    .await?,
            );
        }
        anyhow::Ok(runs)
    };
    let (runs, meanwhile) = tokio::join!(invoking, meanwhile);
    meanwhile?;
    let outputs = outputs(&runs?).await?;
    assert!(outputs.into_iter().eq((0..many).map(|n| n + 2)));
    // Step, end and child.
    assert_eq!(bodies.each_once(), many as usize * 3);
    Ok(())
}
