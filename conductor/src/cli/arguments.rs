//! The command line's grammar and its help.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use conductor_runtime::client::Status;
use conductor_schedule::{Cron, Missed, Overlap, UnknownWord, zone};
use uuid::Uuid;

/// Runs this program's durable tasks on Postgres, and talks to them.
///
/// Without a command it is a worker.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
pub(super) struct Arguments {
    /// The database, instead of the one in DATABASE_URL
    #[arg(long, global = true, value_name = "URL")]
    pub(super) database_url: Option<String>,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run tasks until SIGTERM or Ctrl-C (the default)
    Worker(Serve),
    /// Invoke a task, and on request wait for its result
    Invoke(Invoke),
    /// Emit an event: starts the tasks that are subscribed to it, wakes who waits for it
    Emit(Emit),
    /// List the last events, the newest first
    Events(Events),
    /// Cancel an execution that has not ended
    Cancel(Cancel),
    /// List executions, the newest first
    List(List),
    /// Show all that is known of one execution
    Show(Show),
    /// Say why an execution does not run
    Why(Show),
    /// Run a failed or cancelled execution again, or a waiting one now
    Retry(Retry),
    /// List this program's tasks
    Tasks(Tasks),
    /// List the queues; or pause or resume one
    Queues(Queues),
    /// Make a schedule that invokes a task by a cron rule, or replace it
    Schedule(Schedule),
    /// Remove a schedule that was made at run time
    Unschedule(Named),
    /// List all schedules; or pause, resume or trigger one
    Schedules(Schedules),
    /// List the triggers on tables that tasks and waits need, and what went wrong in them
    Triggers(Triggers),
    /// Bring the database's schema up to date
    Migrate(Migrate),
    /// Look whether this program fits the database, and change nothing
    Check(Check),
    /// Run what is due until nothing is, then end
    Drain(Serve),
    /// Print the database's address and open psql
    Db(Db),
}

#[derive(Debug, Args, Default)]
pub(super) struct Serve {
    /// Serve this queue and no other, with so many handlers at once; may be repeated
    #[arg(long = "queue", value_name = "NAME[:CONCURRENCY]")]
    pub(super) queues: Vec<String>,
    /// Refuse to start where the database has something that this program cannot work with; see
    /// `check`. Without this, it is a warning
    #[arg(long)]
    pub(super) strict: bool,
    /// Make and drop no triggers on tables; refuse to start where one is missing. `triggers --sql`
    /// prints what is to be applied by hand
    #[arg(long)]
    pub(super) no_ddl: bool,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// How long to wait for running processes of an older build to end, where a migration does not
    /// work with them
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
    /// Also make the roles conductor_client and conductor_worker, and give them their rights
    #[arg(long)]
    pub(super) roles: bool,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// As a JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// What a start of this program would change (schema, schedules, subscriptions) is listed, but is
    /// no reason to end with 1
    #[arg(long)]
    pub(super) allow_changes: bool,
    /// Look at no more than so many executions, the oldest first; all by default
    #[arg(long, value_name = "N")]
    pub(super) at_most: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Invoke {
    /// The task's name; `tasks` lists them
    pub(super) task: String,
    #[command(flatten)]
    pub(super) payload: PayloadArguments,
    /// Wait for the end and print the result as JSON
    #[arg(long)]
    pub(super) wait: bool,
    /// Make N executions with the same payload, all or none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) batch: Option<u32>,
    /// Not before this long from now, such as 30s, 5m or "2h 30m"
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "run_at")]
    pub(super) delay: Option<Duration>,
    /// Not before this time, such as 2026-05-01T12:00:00Z
    #[arg(long, value_name = "RFC3339", value_parser = rfc3339)]
    pub(super) run_at: Option<DateTime<Utc>>,
    /// Instead of the task's own priority; higher is claimed first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) priority: Option<i32>,
    /// At most one execution of this key at a time: one that has not started takes the new
    /// payload, one that has started is left as it is
    #[arg(long, value_name = "KEY")]
    pub(super) dedupe_key: Option<String>,
    /// At most one execution in this long, of the task or of the key; the first call counts
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) throttle: Option<Duration>,
    /// Once no call has come for this long, of the task or of the key; the last call counts
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = humantime::parse_duration,
        conflicts_with_all = ["throttle", "delay", "run_at"]
    )]
    pub(super) debounce: Option<Duration>,
    /// At the latest so long after the first of the calls that --debounce puts off
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "debounce")]
    pub(super) max_wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct PayloadArguments {
    /// The payload: name=Alice is read as the field's type wants it, list:=[1,2] is JSON. A
    /// payload without fields is one bare value
    #[arg(value_name = "FIELD=VALUE", allow_negative_numbers = true)]
    pub(super) fields: Vec<OsString>,
    /// The whole payload as JSON; - reads it from standard input
    #[arg(
        long,
        value_name = "PAYLOAD",
        conflicts_with = "fields",
        allow_hyphen_values = true
    )]
    pub(super) json: Option<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Emit {
    /// The event's name
    pub(super) event: String,
    #[command(flatten)]
    pub(super) payload: PayloadArguments,
    /// Tell which executions it started and woke
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait for that at most
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s", requires = "wait")]
    pub(super) timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Only of this name
    pub(super) event: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) limit: u32,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Triggers {
    /// Print the SQL that makes what is missing and drops what nothing needs
    #[arg(long, conflicts_with = "json")]
    pub(super) sql: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Schedule {
    /// The task's name; `tasks` lists them
    pub(super) task: String,
    /// The schedule's name: the same name of a task again replaces the schedule
    pub(super) name: String,
    /// When it ticks, such as "0 9 * * Mon-Fri", "*/10 * * * * *" (with seconds) or @daily
    #[arg(value_parser = cron)]
    pub(super) cron: String,
    #[command(flatten)]
    pub(super) payload: PayloadArguments,
    /// The zone whose clock the rule means, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = timezone)]
    pub(super) timezone: String,
    /// What runs of the ticks that came while nothing could run them: none, one for all, or all
    #[arg(long, default_value = "once", value_parser = word::<Missed>(&["skip", "once", "all"]))]
    pub(super) missed: Missed,
    /// Whether a tick makes an execution while the one of the tick before has not ended
    #[arg(long, default_value = "allow", value_parser = word::<Overlap>(&["allow", "skip"]))]
    pub(super) overlap: Overlap,
}

/// A schedule by its names.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The task's name
    pub(super) task: String,
    /// The schedule's name; `schedules` lists them
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct Schedules {
    /// One JSON object a line, with all there is
    #[arg(long)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Option<Steer>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Steer {
    /// Stop the ticks of a schedule until it is resumed
    Pause(Named),
    /// Let a paused schedule tick again, from now on
    Resume(Named),
    /// Invoke now what a schedule invokes, beside its ticks
    Trigger(Named),
}

#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The execution
    pub(super) id: Uuid,
    /// Why; kept with the execution and shown to whoever waits for it
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only of this task
    #[arg(long, value_name = "NAME")]
    pub(super) task: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = state())]
    pub(super) state: Option<Status>,
    /// Only of this queue
    #[arg(long, value_name = "NAME")]
    pub(super) queue: Option<String>,
    /// Only those invoked at most this long ago, such as 90s, 1h or 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) newer_than: Option<Duration>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) limit: u32,
    /// One JSON object a line, with all there is
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The execution
    pub(super) id: Uuid,
    /// As a JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Retry {
    /// The execution
    pub(super) id: Uuid,
}

#[derive(Debug, Args)]
pub(super) struct Tasks {
    /// As a JSON array, with the JSON Schemas of payload and output
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Queues {
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Option<SteerQueue>,
}

#[derive(Debug, Subcommand)]
pub(super) enum SteerQueue {
    /// Let nothing more of a queue start, until it is resumed
    Pause(Queue),
    /// Let a paused queue be worked on again
    Resume(Queue),
}

#[derive(Debug, Args)]
pub(super) struct Queue {
    /// The queue's name; `queues` lists them
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct Db {
    /// Print the address and do nothing else
    #[arg(long)]
    pub(super) url: bool,
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

/// The grammar, with examples that name the program as it was called.
pub(super) fn grammar(program: &str) -> clap::Command {
    Arguments::command()
        .after_help(format!(
            "\
Examples:
  {program}                                   run the tasks of this program
  {program} tasks                             which tasks there are
  {program} invoke TASK name=Alice --wait     run one and print its result
  {program} list --state failed --newer-than 1d
  {program} show ID                           what happened to it
  {program} why ID                            why it does not run

Database:
  DATABASE_URL, or --database-url; without either, a private PostgreSQL of this project is
  started, which all its processes share and which ends with the last of them.

Logs of worker and drain go to standard error, by RUST_LOG (default info). NO_COLOR is respected.

Exit codes:
  0  done
  1  the execution failed or was cancelled, what was asked for is not there, or `check` found something
  2  the command line is wrong
  3  the database is out of reach, or its schema does not fit this program"
        ))
        .mut_subcommand("worker", |command| {
            command.after_help(format!(
                "\
A queue has the concurrency that the program gives it, else 50. Without --queue, all queues of the
program are served.

On SIGTERM or Ctrl-C no more work is taken, running handlers have 30 s to end, and the exit code
is 0. A second signal ends the process at once.

Examples:
  {program} worker
  {program} worker --queue fast:20 --queue slow:1"
            ))
        })
        .mut_subcommand("invoke", |command| {
            command.after_help(format!(
                "\
The execution's id is printed, or with --wait its result as one line of JSON; everything else goes
to standard error: with --dedupe-key, --throttle or --debounce, what came of the call (created,
replaced, existing or throttled). With --wait the exit code is 1 when the execution failed or was cancelled.

Examples:
  {program} invoke greet name=Alice times=3
  {program} invoke greet name=Alice --wait
  {program} invoke resize 'sizes:=[64,128]' --delay 5m --priority 10
  {program} invoke sync user=7 --dedupe-key user-7
  {program} invoke greet --json '{{\"name\":\"Alice\"}}'
  {program} invoke import --json - < payload.json"
            ))
        })
        .mut_subcommand("emit", |command| {
            command.after_help(format!(
                "\
The event's id is printed, and with --wait a line for each execution that it started or woke, with
its task and its id. Events are kept for seven days, or as long as their declaration says.

Examples:
  {program} emit announcement message=\"Hello World\"
  {program} emit announcement message=\"Hello World\" --wait
  {program} emit announcement --json '{{\"message\":\"Hello World\"}}'"
            ))
        })
        .mut_subcommand("schedule", |command| {
            command.after_help(format!(
                "\
The schedule is in the database until it is removed, whatever is deployed. A rule has 5 fields
(minute, hour, day of month, month, weekday), 6 (second first) or 7 (year last); weekdays are
written by name.

Examples:
  {program} schedule report daily '0 9 * * Mon-Fri' kind=sales --timezone Europe/Berlin
  {program} schedule report often '*/10 * * * * *' kind=sales --overlap skip
  {program} unschedule report daily"
            ))
        })
        .mut_subcommand("unschedule", |command| {
            command.after_help(
                "\
What the schedule has started goes on. A schedule that the code declares stays: pause it instead.",
            )
        })
        .mut_subcommand("schedules", |command| {
            command.after_help(format!(
                "\
What came while a schedule was paused was not missed. `trigger` prints the execution's id.

Examples:
  {program} schedules
  {program} schedules pause report daily
  {program} schedules --json | jq -r 'select(.paused) | .name'"
            ))
        })
        .mut_subcommand("list", |command| {
            command.after_help(format!(
                "\
Examples:
  {program} list --state failed --newer-than 1d
  {program} list --task greet --json | jq -r .id"
            ))
        })
        .mut_subcommand("retry", |command| {
            command.after_help(
                "\
A final state never changes: what failed or was cancelled is repeated under a new id, with the
same payload and the recorded steps. What waits for its next attempt keeps its id and is due now.
The id is printed.",
            )
        })
        .mut_subcommand("queues", |command| {
            command.after_help(format!(
                "\
WAITING are due, RUNNING are with a worker, PARKED wait for a limit of their task; counts end at
10,000. WORKERS are the living processes that serve the queue.

A pause holds in all processes and survives restarts and deploys. What runs goes on; what a worker
has taken and not started is given back within a second.

Examples:
  {program} queues
  {program} queues pause fast
  {program} queues resume fast"
            ))
        })
        .mut_subcommand("drain", |command| {
            command.after_help(
                "What is due later stays. The exit code is 0, whatever the tasks' outcomes are.",
            )
        })
        .mut_subcommand("migrate", |command| {
            command.after_help(format!(
                "\
Where a migration is marked as breaking, running processes of an older build are told to drain and
end with exit code 0; the migration waits for them, and is refused when some are still there. A
compatible one disturbs nobody.

Examples:
  {program} migrate
  {program} migrate --wait 10m"
            ))
        })
        .mut_subcommand("check", |command| {
            command.after_help(format!(
                "\
For CI and before deploys. It migrates nothing, declares nothing and writes nothing: a role that may
only read is enough. Every live execution's payload is read as its task would read it, and every
recorded value whose type is known from outside of a handler: children's outputs, events, sleeps.
Values of ctx.step and ctx.transaction have types that only the handler knows; they are not read.

The exit code is 1 where something is found.

Examples:
  {program} check
  {program} check --allow-changes && deploy
  {program} check --json | jq .findings"
            ))
        })
        .mut_subcommand("db", |command| {
            command.after_help(
                "\
psql opens where there is one and both standard input and output are a terminal. A private server
runs as long as a process of this project does.",
            )
        })
}
