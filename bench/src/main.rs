//! Measures conductor on one Postgres: `cargo run --release -p conductor-bench -- all`.

mod database;
mod drain;
mod enqueue;
mod events;
mod latency;
mod limits;
mod report;
mod rows;
mod steps;
mod tasks;

use clap::{Parser, ValueEnum};

use database::Server;
use report::Report;

/// Measures conductor with its default settings, each scenario in a fresh database.
///
/// The database is the embedded durable one (fsync on) where no --url is given. Figures of
/// different machines do not compare; ratios of one run do. Nothing else should run meanwhile.
#[derive(Parser)]
struct Options {
    /// What to measure; several may be named.
    #[arg(required = true)]
    scenarios: Vec<Scenario>,
    /// Executions a run.
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// Runs of each figure; the median is reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Rows that `history` and `delayed` put beside the work.
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
    /// A server whose role may create databases, instead of the embedded one.
    #[arg(long)]
    url: Option<String>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One call a job from 10 callers, and one call for all jobs.
    Enqueue,
    /// Enqueue with a dedupe key each, against enqueue without.
    Dedupe,
    /// All jobs are there; how fast they are run and finished.
    Drain,
    /// An idle worker and one job every 50 ms: from the call to the handler's first line, and to the result.
    Latency,
    /// Drain with a million finished executions kept, against drain without.
    History,
    /// Drain with a million executions due next week, against drain without.
    Delayed,
    /// 2,000 workflows of 5 steps.
    Steps,
    /// 100 parents of 100 children each; children a second.
    Fanout,
    /// Drain under limits of a task and of keys, each against drain without.
    Limits,
    /// Emits with nobody, a task and an execution each that want them; wake-ups among 100,000 that wait
    /// for others of the same name, and of 10,000 that wait for one.
    Events,
    /// 100,000 rows in one insert, and single inserts, into a table that a task or a wait listens to, against
    /// one without.
    Rows,
    /// All of these.
    All,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let server = Server::start(options.url.clone()).await?;
    let mut report = Report::default();
    let wanted = |scenario| {
        options.scenarios.contains(&scenario) || options.scenarios.contains(&Scenario::All)
    };
    if wanted(Scenario::Enqueue) {
        enqueue::measure(&server, options.jobs, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Dedupe) {
        enqueue::dedupe(&server, options.jobs, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Drain) {
        drain::measure(&server, options.jobs, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Latency) {
        latency::measure(&server, &mut report).await?;
    }
    if wanted(Scenario::Steps) {
        steps::measure(&server, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Fanout) {
        steps::fan_out(&server, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Limits) {
        limits::measure(&server, options.jobs, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Events) {
        events::measure(&server, options.jobs, options.runs, &mut report).await?;
    }
    if wanted(Scenario::Rows) {
        rows::measure(&server, options.runs, &mut report).await?;
    }
    for (scenario, beside) in [
        (Scenario::History, drain::Beside::Finished),
        (Scenario::Delayed, drain::Beside::Delayed),
    ] {
        if wanted(scenario) {
            let rows = options.rows;
            drain::compare(
                &server,
                options.jobs,
                options.runs,
                beside,
                rows,
                &mut report,
            )
            .await?;
        }
    }
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
