//! The commands, their arguments and their help texts.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use conductor_runtime::client::Status;
use conductor_schedule::{Cron, Missed, Overlap, UnknownWord, zone};
use uuid::Uuid;

use crate::help;

/// Run and manage this program's durable tasks on Postgres
///
/// Without a command, the program runs as a worker.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
pub(crate) struct Arguments {
    /// Connect to this database instead of the one in DATABASE_URL
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run tasks until SIGTERM or Ctrl-C (default command)
    Worker(Serve),
    /// Invoke a task and optionally wait for its result
    Invoke(Invoke),
    /// Emit an event, which starts subscribed tasks and wakes executions waiting for it
    Emit(Emit),
    /// List recent events, newest first
    Events(Events),
    /// Cancel an unfinished execution
    Cancel(Cancel),
    /// List executions, newest first
    List(List),
    /// Show the details of an execution
    Show(Show),
    /// Explain why an execution is not running
    Why(Show),
    /// Repeat a failed or cancelled execution, or make a pending one due now
    Retry(Retry),
    /// List the tasks of this program
    Tasks(Tasks),
    /// List queues, or pause or resume one
    Queues(Queues),
    /// Create or replace a schedule that invokes a task by a cron expression
    Schedule(Schedule),
    /// Remove a schedule that was created at run time
    Unschedule(Named),
    /// List schedules, or pause, resume or trigger one
    Schedules(Schedules),
    /// List the table triggers that tasks and waits need, and their recent errors
    Triggers(Triggers),
    /// Apply pending migrations to the database
    Migrate(Migrate),
    /// Check whether this program is compatible with the database (read-only)
    Check(Check),
    /// Run due executions until none is left, then exit
    Drain(Serve),
    /// Print the database URL and open psql
    Db(Db),
}

#[derive(Debug, Args, Default)]
pub(crate) struct Serve {
    /// Serve only this queue, with at most CONCURRENCY handlers at once; can be repeated
    #[arg(long = "queue", value_name = "NAME[:CONCURRENCY]")]
    pub(crate) queues: Vec<String>,
    /// Refuse to start if the database contains something that this program cannot work with,
    /// instead of logging a warning; `check` lists it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Create and drop no table triggers, and refuse to start if one is missing;
    /// `triggers --sql` prints the SQL to apply by hand
    #[arg(long)]
    pub(crate) no_ddl: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Wait at most this long for processes of older builds to exit before a breaking migration,
    /// such as 30s, 5m or "2h 30m"
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
    /// Also create the roles conductor_client and conductor_worker and grant their privileges
    #[arg(long)]
    pub(crate) roles: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with 0 if all findings are changes that this program makes when it starts, such as to the
    /// schema or to schedules; they are still listed
    #[arg(long)]
    pub(crate) allow_changes: bool,
    /// Check at most N executions, oldest first; all by default
    #[arg(long, value_name = "N")]
    pub(crate) at_most: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// Name of the task; `tasks` lists them
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) payload: PayloadArguments,
    /// Wait until the execution ends and print its result as JSON
    #[arg(long)]
    pub(crate) wait: bool,
    /// Create N executions with the same payload, all or none (1 to 1000000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) batch: Option<u32>,
    /// Wait this long before the first attempt, such as 30s, 5m or "2h 30m"
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "run_at")]
    pub(crate) delay: Option<Duration>,
    /// Do not start before this time, such as 2026-05-01T12:00:00Z
    #[arg(long, value_name = "RFC3339", value_parser = rfc3339)]
    pub(crate) run_at: Option<DateTime<Utc>>,
    /// Override the priority of the task; higher priorities are claimed first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
    /// Allow only one unfinished execution of the task with this key: one that has not started takes
    /// the new payload, one that has started is left as it is
    #[arg(long, value_name = "KEY")]
    pub(crate) dedupe_key: Option<String>,
    /// Create at most one execution per interval, for the task or for its dedupe key; the first call
    /// counts
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) throttle: Option<Duration>,
    /// Run once there was no further call for this long, for the task or for its dedupe key; the last
    /// call counts
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = humantime::parse_duration,
        conflicts_with_all = ["throttle", "delay", "run_at"]
    )]
    pub(crate) debounce: Option<Duration>,
    /// With --debounce, run at the latest this long after the first call; unlimited by default
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "debounce")]
    pub(crate) max_wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct PayloadArguments {
    /// Fields of the payload: name=Alice is parsed by the type of the field, list:=[1,2] as JSON. A
    /// payload without fields is one bare value
    #[arg(value_name = "FIELD=VALUE", allow_negative_numbers = true)]
    pub(crate) fields: Vec<OsString>,
    /// Whole payload as JSON; - reads it from standard input
    #[arg(
        long,
        value_name = "PAYLOAD",
        conflicts_with = "fields",
        allow_hyphen_values = true
    )]
    pub(crate) json: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Emit {
    /// Name of the event
    pub(crate) event: String,
    #[command(flatten)]
    pub(crate) payload: PayloadArguments,
    /// Wait until the event is delivered and list the executions that it started or woke
    #[arg(long)]
    pub(crate) wait: bool,
    /// With --wait, wait at most this long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s", requires = "wait")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// List only events with this name
    pub(crate) event: Option<String>,
    /// List at most N events
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Triggers {
    /// Print the SQL that creates missing triggers and drops those that are not needed
    #[arg(long, conflicts_with = "json")]
    pub(crate) sql: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Schedule {
    /// Name of the task; `tasks` lists them
    pub(crate) task: String,
    /// Name of the schedule; replaces the run-time schedule of the task with this name, if any
    pub(crate) name: String,
    /// Cron expression, such as "0 9 * * Mon-Fri", "*/10 * * * * *" (with seconds) or @daily
    #[arg(value_parser = cron)]
    pub(crate) cron: String,
    #[command(flatten)]
    pub(crate) payload: PayloadArguments,
    /// Time zone of the cron expression, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = timezone)]
    pub(crate) timezone: String,
    /// How to handle ticks that were missed: skip them, run once for all of them, or run all
    #[arg(long, default_value = "once", value_parser = word::<Missed>(&["skip", "once", "all"]))]
    pub(crate) missed: Missed,
    /// How to handle a tick while the execution of the previous one is unfinished: allow another
    /// one, or skip the tick
    #[arg(long, default_value = "allow", value_parser = word::<Overlap>(&["allow", "skip"]))]
    pub(crate) overlap: Overlap,
}

/// A schedule, identified by its task and its name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the task
    pub(crate) task: String,
    /// Name of the schedule; `schedules` lists them
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Schedules {
    /// Print one JSON object per line, with all fields
    #[arg(long)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Steer>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Steer {
    /// Pause a schedule until it is resumed
    Pause(Named),
    /// Resume a paused schedule, from its next tick on
    Resume(Named),
    /// Invoke the task of a schedule now, in addition to its ticks
    Trigger(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// ID of the execution
    pub(crate) id: Uuid,
    /// Reason, stored with the execution and returned to callers that wait for its result
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// List only executions of this task
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// List only executions in this state
    #[arg(long, value_parser = state())]
    pub(crate) state: Option<Status>,
    /// List only executions in this queue
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<String>,
    /// List only executions that were invoked at most this long ago, such as 90s, 1h or 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) newer_than: Option<Duration>,
    /// List at most N executions
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
    /// Print one JSON object per line, with all fields
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// ID of the execution
    pub(crate) id: Uuid,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// ID of the execution
    pub(crate) id: Uuid,
}

#[derive(Debug, Args)]
pub(crate) struct Tasks {
    /// Print a JSON array, with the JSON Schemas of payloads and outputs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Queues {
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<SteerQueue>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SteerQueue {
    /// Pause a queue: start nothing from it until it is resumed
    Pause(Queue),
    /// Resume a paused queue
    Resume(Queue),
}

#[derive(Debug, Args)]
pub(crate) struct Queue {
    /// Name of the queue; `queues` lists them
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Db {
    /// Print the URL and exit
    #[arg(long)]
    pub(crate) url: bool,
}

fn rfc3339(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|error| format!("{error}; a time looks like 2026-05-01T12:00:00Z"))
}

fn cron(text: &str) -> Result<String, String> {
    let rule = Cron::parse(text).map_err(|error| error.to_string())?;
    Ok(rule.as_str().to_owned())
}

fn timezone(text: &str) -> Result<String, String> {
    let zone = zone(text).map_err(|error| error.to_string())?;
    Ok(zone.name().to_owned())
}

fn word<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownWord> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|text| text.parse::<T>())
}

fn state() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str))
        .try_map(|text| text.parse::<Status>())
}

/// Returns the parser, with examples that use the name under which the program was called.
pub(crate) fn grammar(program: &str) -> clap::Command {
    let filled = |text: &str| text.replace("{program}", program);
    let grammar = Arguments::command().after_help(filled(help::PROGRAM));
    help::COMMANDS
        .iter()
        .fold(grammar, |grammar, (name, text)| {
            grammar.mut_subcommand(name, |command| command.after_help(filled(text)))
        })
}
