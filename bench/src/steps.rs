use std::time::Instant;

use conductor::Orchestrator;

use crate::database::Server;
use crate::report::Report;
use crate::tasks::{Fan, Five};

const WORKFLOWS: i64 = 2000;
const PARENTS: i64 = 100;

/// 2,000 workflows of five trivial steps.
pub(crate) async fn measure(
    server: &Server,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..runs {
        let fresh = server.fresh().await?;
        fresh
            .conductor
            .invoke_batch::<Five>((0..WORKFLOWS).map(|n| Five { n }))
            .await?;
        rates.push(WORKFLOWS as f64 / drained(&fresh.conductor).await?);
        fresh.close().await?;
    }
    report.rate("steps, workflows of 5", &mut rates);
    Ok(())
}

/// 100 parents of 100 children each.
pub(crate) async fn fan_out(
    server: &Server,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..runs {
        let fresh = server.fresh().await?;
        fresh
            .conductor
            .invoke_batch::<Fan>((0..PARENTS).map(|n| Fan { n }))
            .await?;
        rates.push((PARENTS * 100) as f64 / drained(&fresh.conductor).await?);
        fresh.close().await?;
    }
    report.rate("fanout, children of 100 parents", &mut rates);
    Ok(())
}

async fn drained(conductor: &conductor::Conductor) -> anyhow::Result<f64> {
    let began = Instant::now();
    Orchestrator::builder(conductor.clone())
        .build()?
        .drain()
        .await?;
    Ok(began.elapsed().as_secs_f64())
}
