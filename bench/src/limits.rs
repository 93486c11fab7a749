use conductor::{Conductor, Task};

use crate::database::Server;
use crate::drain::drain;
use crate::report::Report;
use crate::tasks::{Keyed, Limited, Neighbour, Noop};

/// Drains of tasks with limits, each beside one without in the same database.
pub(crate) async fn measure(
    server: &Server,
    jobs: usize,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let jobs = jobs as i64;
    let tenants = move |n: i64| n % 1000;
    // Half of all is one key's.
    let hot = move |n: i64| if n % 2 == 0 { 0 } else { 1 + n / 2 % 1000 };
    let keyed = |key: fn(i64) -> i64| move |n: i64| Keyed { key: key(n), n };
    compare::<Neighbour>(server, "beside a limited task", jobs, runs, report, |n| {
        Neighbour { n }
    })
    .await?;
    compare::<Limited>(server, "10 at once", jobs, runs, report, |n| Limited { n }).await?;
    compare::<Keyed>(
        server,
        "5 at once of 1000 keys",
        jobs,
        runs,
        report,
        keyed(tenants),
    )
    .await?;
    compare::<Keyed>(
        server,
        "5 at once, one key has half",
        jobs,
        runs,
        report,
        keyed(hot),
    )
    .await
}

async fn compare<T: Task>(
    server: &Server,
    name: &str,
    jobs: i64,
    runs: usize,
    report: &mut Report,
    payload: impl Fn(i64) -> T::Payload + Copy,
) -> anyhow::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        without.push(once::<Noop>(server, jobs, |n| Noop { n }).await?);
        with.push(once::<T>(server, jobs, payload).await?);
    }
    report.rate(&format!("limits: {name}"), &mut with);
    report.ratio(&format!("limits: {name}, ratio"), &with, &without);
    Ok(())
}

async fn once<T: Task>(
    server: &Server,
    jobs: i64,
    payload: impl Fn(i64) -> T::Payload,
) -> anyhow::Result<f64> {
    let fresh = server.fresh().await?;
    let conductor: &Conductor = &fresh.conductor;
    let rate = drain::<T>(conductor, (0..jobs).map(payload)).await?;
    fresh.close().await?;
    Ok(rate)
}
