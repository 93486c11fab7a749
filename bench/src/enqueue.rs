use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::database::Server;
use crate::report::Report;
use crate::tasks::Noop;

const CALLERS: usize = 10;

pub(crate) async fn measure(
    server: &Server,
    jobs: usize,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut single, mut batch) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let fresh = server.fresh().await?;
        let next = Arc::new(AtomicI64::new(0));
        // Connections and plans are made before the clock starts.
        fresh.conductor.invoke::<Noop>(Noop { n: 0 }).await?;
        let began = Instant::now();
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (conductor, next) = (fresh.conductor.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= jobs as i64 {
                            return Ok::<_, conductor::Error>(());
                        }
                        conductor.invoke::<Noop>(Noop { n }).await?;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await??;
        }
        single.push(jobs as f64 / began.elapsed().as_secs_f64());
        fresh.close().await?;

        let fresh = server.fresh().await?;
        let began = Instant::now();
        fresh
            .conductor
            .invoke_batch::<Noop>((0..jobs as i64).map(|n| Noop { n }))
            .await?;
        batch.push(jobs as f64 / began.elapsed().as_secs_f64());
        fresh.close().await?;
    }
    report.rate("enqueue, one call a job, 10 callers", &mut single);
    report.rate("enqueue, one batch", &mut batch);
    Ok(())
}
