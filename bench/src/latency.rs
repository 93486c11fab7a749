use std::time::{Duration, Instant};

use conductor::Orchestrator;

use crate::database::Server;
use crate::report::Report;
use crate::tasks::{Mark, take_marks};

const EVERY: Duration = Duration::from_millis(50);
const CALLS: usize = 200;

pub(crate) async fn measure(server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let fresh = server.fresh().await?;
    let worker = Orchestrator::builder(fresh.conductor.clone())
        .build()?
        .start()
        .await?;
    let (mut to_start, mut to_result) = (Vec::new(), Vec::new());
    for call in 0..CALLS + 10 {
        tokio::time::sleep(EVERY).await;
        let began = Instant::now();
        fresh.conductor.invoke::<Mark>(()).await?.result().await?;
        let took = began.elapsed();
        let started = take_marks();
        // The first ones open connections and make plans.
        if call >= 10 {
            to_result.push(took.as_secs_f64() * 1e3);
            to_start.extend(
                started
                    .iter()
                    .map(|at| at.duration_since(began).as_secs_f64() * 1e3),
            );
        }
    }
    worker.stop().await?;
    fresh.close().await?;
    report.percentiles("latency, call to handler", &mut to_start);
    report.percentiles("latency, call to result", &mut to_result);
    Ok(())
}
