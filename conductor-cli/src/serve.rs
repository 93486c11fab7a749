//! `worker` and `drain`: the commands that run tasks.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use conductor_core::nearest;
use conductor_runtime::orchestrator::{Orchestrator, Worker};
use conductor_runtime::registry::Registry;

use super::arguments::Serve;
use super::fault::{Done, Fault, USAGE};
use super::log::log;
use super::output::{self, FAINT, STRONG, styled};
use super::{Options, Program, db, fields};

/// The maximum number of task names in the banner.
const MAX_NAMES: usize = 8;

pub(crate) async fn worker(
    options: Options,
    command: Serve,
    url: Option<&str>,
    program: &Program,
) -> Done {
    log();
    let orchestrator = prepare(options, command, url).await?;
    output::note(&banner(&orchestrator, program));
    Ok(orchestrator.run().await?)
}

pub(crate) async fn drain(options: Options, command: Serve, url: Option<&str>) -> Done {
    log();
    let orchestrator = prepare(options, command, url).await?;
    Ok(orchestrator.drain().await?)
}

async fn prepare(options: Options, command: Serve, url: Option<&str>) -> Done<Orchestrator> {
    let asked = queues(&command, &options.workers)?;
    let no_ddl = command.no_ddl;
    // Does not migrate: the start does, with the settings made by `setup`.
    let conductor = db::open(url).await?;
    let mut builder = Orchestrator::builder(conductor).workers(options.workers);
    if command.strict {
        builder = builder.strict();
    }
    if let Some(setup) = options.setup {
        builder = setup(builder).await?;
    }
    if !asked.is_empty() {
        builder = builder.only_workers(asked);
    }
    if no_ddl {
        builder = builder.no_ddl();
    }
    Ok(builder.build()?)
}

/// Returns the workers given by `--queue`.
fn queues(command: &Serve, declared: &[Worker]) -> Done<Vec<Worker>> {
    let one = |text: &String| {
        // A queue's name may itself contain colons.
        let (name, concurrency) = match text.rsplit_once(':') {
            Some((name, digits)) if digits.parse::<usize>().is_ok() => {
                (name, digits.parse::<usize>().ok())
            }
            _ => (text.as_str(), None),
        };
        if concurrency == Some(0) {
            return Err(Fault::new(
                USAGE,
                format!("--queue {text}: the concurrency is at least 1"),
            ));
        }
        let known = || Registry::global().tasks().map(|task| task.queue);
        if !known().any(|queue| queue == name) {
            let hint = match nearest(name, known()) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => String::new(),
            };
            let text = format!("no task of this program has the queue {name:?}{hint}");
            return Err(Fault::new(USAGE, text));
        }
        let usual = declared.iter().find(|worker| worker.queue_name() == name);
        let worker = Worker::queue(name);
        Ok(match concurrency.or(usual.map(Worker::handlers)) {
            Some(handlers) => worker.concurrency(handlers),
            None => worker,
        })
    };
    command.queues.iter().map(one).collect()
}

fn banner(orchestrator: &Orchestrator, program: &Program) -> String {
    let row =
        |name: &str, text: &str| format!("  {} {text}\n", styled(FAINT, &format!("{name:<9}")));
    let mut out = format!(
        "{}\n",
        styled(STRONG, &format!("{}: worker", program.name()))
    );
    out += &row("database", &db::place(orchestrator.conductor()));
    let workers = orchestrator.workers().iter();
    let queues: Vec<String> = workers
        .map(|worker| {
            format!(
                "{} ({} at once)",
                output::line(worker.queue_name(), 100),
                worker.handlers()
            )
        })
        .collect();
    out += &row("queues", &queues.join(", "));

    let served = |queue: &str| {
        orchestrator
            .workers()
            .iter()
            .any(|w| w.queue_name() == queue)
    };
    let tasks: Vec<_> = Registry::global()
        .tasks()
        .filter(|task| served(task.queue))
        .collect();
    let mut names: Vec<&str> = tasks.iter().map(|task| task.name).collect();
    if names.is_empty() {
        out += &row(
            "tasks",
            "none; is the crate with the tasks linked? See `link` of `conductor::main!`",
        );
        out.pop();
        return out;
    }
    names.truncate(MAX_NAMES);
    let more = if tasks.len() > MAX_NAMES { ", …" } else { "" };
    out += &row(
        "tasks",
        &format!("{}: {}{more}", tasks.len(), names.join(", ")),
    );
    if let Some(task) = tasks.first() {
        let sample = fields::sample(&task.payload_schema());
        let name = fields::shell(task.name);
        out += &row(
            "try",
            &format!("{} invoke {name}{sample} --wait", program.call()),
        );
    }
    if io::stdin().is_terminal() {
        let _ = write!(out, "  {}", styled(FAINT, "Ctrl-C stops it."));
    } else {
        out.pop();
    }
    out
}
