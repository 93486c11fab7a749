//! The command line of a program with tasks.
//!
//! `conductor::main!` generates a `main` that runs it. A program with a `main` of its
//! own calls [`run`]:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use conductor::cli::{self, Options};
//! use conductor::prelude::*;
//!
//! struct Mailer;
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     let options = Options::new()
//!         .workers([Worker::queue("fast").concurrency(5)])
//!         .setup(async |app| Ok(app.state(Mailer)));
//!     cli::run(options).await
//! }
//! ```

mod arguments;
mod check;
mod children;
mod db;
mod emit;
mod fault;
mod fields;
mod help;
mod invoke;
mod json;
mod list;
mod log;
mod options;
mod output;
mod payload;
mod program;
mod queues;
mod schedule;
mod schedules;
mod schema;
mod serve;
mod show;
mod steer;
mod steps;
mod story;
mod tasks;
mod tree;
mod triggers;
mod waits;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;
use conductor_runtime::client::Conductor;

use arguments::{Arguments, Command, Serve};
use fault::{Done, FAILED, Fault, USAGE};
pub use options::Options;
use program::Program;

/// Runs the command given by the process's arguments and returns its exit code.
///
/// A worker runs until SIGTERM or Ctrl-C.
///
/// | code | meaning |
/// | --- | --- |
/// | 0 | done |
/// | 1 | the execution failed or was cancelled, what was asked for does not exist, or `check` found something |
/// | 2 | the command line is invalid |
/// | 3 | the database cannot be reached, or its schema is not compatible with this program |
///
/// Results go to standard output, everything else to standard error. `worker`, `drain` and `migrate`
/// install a `tracing` subscriber if the program has none.
pub async fn run(options: Options) -> ExitCode {
    match execute(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.report(),
    }
}

/// Calls [`run`] on a new multi-threaded runtime. `conductor::main!` expands to this call.
pub fn main(options: Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(options));
            // A handler that blocks a thread must not keep the process from exiting.
            runtime.shutdown_background();
            code
        }
        Err(error) => Fault::new(FAILED, format!("cannot start the runtime: {error}")).report(),
    }
}

async fn execute(mut options: Options) -> Done {
    let given: Vec<OsString> = match options.arguments.take() {
        Some(arguments) => arguments,
        None => std::env::args_os().collect(),
    };
    let program = Program::of(&given);
    let Some(arguments) = parse(&program, given)? else {
        return Ok(());
    };
    let url = arguments.database_url.as_deref();
    match arguments
        .command
        .unwrap_or(Command::Worker(Serve::default()))
    {
        Command::Worker(command) => serve::worker(options, command, url, &program).await,
        Command::Drain(command) => serve::drain(options, command, url).await,
        Command::Invoke(command) => invoke::invoke(command, url, &program).await,
        Command::Emit(command) => emit::emit(command, url, &program).await,
        Command::Events(command) => emit::events(command, &connect(url).await?).await,
        Command::Cancel(command) => steer::cancel(command, &connect(url).await?).await,
        Command::Retry(command) => steer::retry(command, &connect(url).await?).await,
        Command::List(command) => list::list(command, &connect(url).await?).await,
        Command::Show(command) => show::show(command, &connect(url).await?).await,
        Command::Why(command) => why::why(command, &connect(url).await?).await,
        Command::Queues(command) => queues::queues(command, &connect(url).await?).await,
        Command::Tasks(command) => tasks::tasks(command),
        Command::Schedule(command) => schedule::schedule(command, url, &program).await,
        Command::Unschedule(command) => {
            schedule::unschedule(command, &connect(url).await?, &program).await
        }
        Command::Schedules(command) => schedules::schedules(command, &connect(url).await?).await,
        Command::Triggers(command) => triggers::triggers(command, &connect(url).await?).await,
        Command::Migrate(command) => db::migrate(command, url).await,
        Command::Check(command) => check::check(command, url).await,
        Command::Db(command) => db::db(command, url).await,
    }
}

/// Parses the arguments. Returns `None` if it printed the help.
fn parse(program: &Program, given: Vec<OsString>) -> Done<Option<Arguments>> {
    let parsed = arguments::grammar(program.name())
        .try_get_matches_from(given)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    match parsed {
        Ok(arguments) => Ok(Some(arguments)),
        Err(said) => {
            if names_address(&said.to_string()) {
                return Err(Fault::new(
                    USAGE,
                    "an address of a database stands where none is expected; give it as --database-url URL, or in DATABASE_URL",
                ));
            }
            let printed = said.print();
            if said.use_stderr() {
                return Err(Fault::silent(USAGE));
            }
            printed?;
            Ok(None)
        }
    }
}

/// Whether a message contains a database URL, and possibly its password.
fn names_address(text: &str) -> bool {
    text.contains("postgres://") || text.contains("postgresql://")
}

/// Connects to the given database, or else to the default one, and applies pending migrations.
async fn connect(url: Option<&str>) -> Done<Conductor> {
    Ok(match url {
        Some(url) => Conductor::connect_to(url).await?,
        None => Conductor::connect().await?,
    })
}
