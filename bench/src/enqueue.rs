use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use conductor::{Conductor, Invocation};

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
        single.push(calls(server, jobs, false).await?);
        batch.push(one_batch(server, jobs, false).await?);
    }
    report.rate("enqueue, one call a job, 10 callers", &mut single);
    report.rate("enqueue, one batch", &mut batch);
    Ok(())
}

/// With a key each and without in turn, so that a machine that changes its speed does so for both.
pub(crate) async fn dedupe(
    server: &Server,
    jobs: usize,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..runs {
        for (keyed, at) in [(false, 0), (true, 1)] {
            rates[at].push(calls(server, jobs, keyed).await?);
            rates[at + 2].push(one_batch(server, jobs, keyed).await?);
        }
    }
    let [single, keyed_single, batch, keyed_batch] = &mut rates;
    report.ratio(
        "enqueue with keys over without, one call a job",
        keyed_single,
        single,
    );
    report.ratio(
        "enqueue with keys over without, one batch",
        keyed_batch,
        batch,
    );
    report.rate(
        "enqueue with a key each, one call a job, 10 callers",
        keyed_single,
    );
    report.rate("enqueue with a key each, one batch", keyed_batch);
    Ok(())
}

fn key(n: i64) -> String {
    format!("customer-{n}")
}

async fn calls(server: &Server, jobs: usize, keyed: bool) -> anyhow::Result<f64> {
    let fresh = server.fresh().await?;
    let next = Arc::new(AtomicI64::new(0));
    // Connections and plans are made before the clock starts.
    enqueue(&fresh.conductor, -1, keyed).await?;
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
                    enqueue(&conductor, n, keyed).await?;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    fresh.close().await?;
    Ok(rate)
}

async fn enqueue(conductor: &Conductor, n: i64, keyed: bool) -> Result<(), conductor::Error> {
    let invoke = conductor.invoke::<Noop>(Noop { n });
    if keyed {
        invoke.dedupe_key(key(n)).await?;
    } else {
        invoke.await?;
    }
    Ok(())
}

async fn one_batch(server: &Server, jobs: usize, keyed: bool) -> anyhow::Result<f64> {
    let fresh = server.fresh().await?;
    let began = Instant::now();
    let items = (0..jobs as i64).map(|n| {
        let item = Invocation::<Noop>::new(Noop { n });
        if keyed { item.dedupe_key(key(n)) } else { item }
    });
    fresh.conductor.invoke_batch_with(items).await?;
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    fresh.close().await?;
    Ok(rate)
}
