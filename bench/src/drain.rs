use std::time::Instant;

use conductor::{Conductor, Orchestrator, Task};

use crate::database::Server;
use crate::report::Report;
use crate::tasks::Noop;

/// What lies beside the work.
#[derive(Clone, Copy)]
pub(crate) enum Beside {
    Finished,
    Delayed,
}

pub(crate) async fn measure(
    server: &Server,
    jobs: usize,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..runs {
        let fresh = server.fresh().await?;
        rates.push(noops(&fresh.conductor, jobs).await?);
        fresh.close().await?;
    }
    report.rate("drain", &mut rates);
    Ok(())
}

/// With and without in turn, so that a machine that changes its speed does so for both.
pub(crate) async fn compare(
    server: &Server,
    jobs: usize,
    runs: usize,
    beside: Beside,
    rows: i64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let crowded = server.fresh().await?;
    crowded.conductor.invoke::<Noop>(Noop { n: 0 }).await?;
    fill(&crowded.conductor, beside, rows).await?;
    for _ in 0..runs {
        let fresh = server.fresh().await?;
        without.push(noops(&fresh.conductor, jobs).await?);
        fresh.close().await?;
        with.push(noops(&crowded.conductor, jobs).await?);
    }
    crowded.close().await?;
    let name = match beside {
        Beside::Finished => "history",
        Beside::Delayed => "delayed",
    };
    report.rate(&format!("{name}: drain without"), &mut without);
    report.rate(&format!("{name}: drain with {rows} rows"), &mut with);
    report.ratio(&format!("{name}: ratio"), &with, &without);
    Ok(())
}

async fn noops(conductor: &Conductor, jobs: usize) -> anyhow::Result<f64> {
    drain::<Noop>(conductor, (0..jobs as i64).map(|n| Noop { n })).await
}

/// Invokes all, then runs them; executions a second.
pub(crate) async fn drain<T: Task>(
    conductor: &Conductor,
    payloads: impl IntoIterator<Item = T::Payload>,
) -> anyhow::Result<f64> {
    let jobs = conductor.invoke_batch::<T>(payloads).await?.len();
    let began = Instant::now();
    Orchestrator::builder(conductor.clone())
        .build()?
        .drain()
        .await?;
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

/// Rows as the functions of the schema would have left them; one by one would take too long.
async fn fill(conductor: &Conductor, beside: Beside, rows: i64) -> anyhow::Result<()> {
    let statement = match beside {
        Beside::Finished => {
            "insert into conductor.finished_executions (
                 id, created_at, claimed_at, finished_at, expires_at, queue_id, task_id, priority,
                 claim, failures, crashes, state, payload, output)
             select conductor.uuid7(), now(), now(), now(), now() + interval '7 days', t.queue_id,
                    t.id, 0, 1, 0, 0, 'completed', '{\"n\":1}', 'null'
               from conductor.tasks t, generate_series(1, $1) where t.name = 'noop'"
        }
        Beside::Delayed => {
            "insert into conductor.live_executions (
                 id, run_at, created_at, queue_id, task_id, priority, payload)
             select conductor.uuid7(), now() + interval '7 days' + i * interval '1 ms', now(),
                    t.queue_id, t.id, 0, '{\"n\":1}'
               from conductor.tasks t, generate_series(1, $1) i where t.name = 'noop'"
        }
    };
    sqlx::query(statement)
        .bind(rows)
        .execute(conductor.pool())
        .await?;
    sqlx::query("vacuum analyze")
        .execute(conductor.pool())
        .await?;
    sqlx::query("checkpoint").execute(conductor.pool()).await?;
    Ok(())
}
