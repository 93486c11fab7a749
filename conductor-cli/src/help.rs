//! The texts below the options in `--help`. `{program}` stands for the name under which the program was
//! called.

/// The text of the program itself.
pub(crate) const PROGRAM: &str = "\
Examples:
  {program}                                   run the tasks of this program
  {program} tasks                             list the tasks
  {program} invoke TASK name=Alice --wait     run one and print its result
  {program} list --state failed --newer-than 1d
  {program} show ID                           show everything about one execution
  {program} why ID                            show why it does not run

Database:
  DATABASE_URL, or --database-url; without either, a private PostgreSQL of this project is
  started, which all its processes share and which ends with the last of them.

Logs of worker and drain go to standard error, by RUST_LOG (default info). NO_COLOR is respected.

Exit codes:
  0  done
  1  the execution failed or was cancelled, what was asked for is not there, or `check` found something
  2  the command line is wrong
  3  the database is out of reach, or its schema does not fit this program";

/// The texts of commands.
pub(crate) const COMMANDS: &[(&str, &str)] = &[
    (
        "worker",
        "\
The concurrency of a queue is what the program sets, or 50. Without --queue, the worker serves the
queues that the program lists in `workers:`, or all queues of its tasks, and `default`.

On SIGTERM or Ctrl-C the worker claims no more work and gives running handlers 30 s to end; the
exit code is 0. A second signal ends the process at once.

Examples:
  {program} worker
  {program} worker --queue fast:20 --queue slow:1",
    ),
    (
        "invoke",
        "\
Prints the execution's id, or with --wait its result as one line of JSON. Everything else goes to
standard error, such as the effect of --dedupe-key, --throttle or --debounce: created, replaced,
existing or throttled. With --wait the exit code is 1 if the execution failed or was cancelled.

Examples:
  {program} invoke greet name=Alice times=3
  {program} invoke greet name=Alice --wait
  {program} invoke resize 'sizes:=[64,128]' --delay 5m --priority 10
  {program} invoke sync user=7 --dedupe-key user-7
  {program} invoke greet --json '{\"name\":\"Alice\"}'
  {program} invoke import --json - < payload.json",
    ),
    (
        "emit",
        "\
Prints the event's id, and with --wait a line for each execution that it started or woke, with task
and id. Events are kept for seven days, or for the time that their declaration sets.

Examples:
  {program} emit announcement message=\"Hello World\"
  {program} emit announcement message=\"Hello World\" --wait
  {program} emit announcement --json '{\"message\":\"Hello World\"}'",
    ),
    (
        "schedule",
        "\
The schedule stays in the database until `unschedule` removes it, also across deploys. A rule has 5
fields (minute, hour, day of month, month, weekday), 6 (second first) or 7 (year last). Write
weekdays by name.

Examples:
  {program} schedule report daily '0 9 * * Mon-Fri' kind=sales --timezone Europe/Berlin
  {program} schedule report often '*/10 * * * * *' kind=sales --overlap skip
  {program} unschedule report daily",
    ),
    (
        "unschedule",
        "\
Executions that the schedule has started go on. A schedule that the code declares cannot be removed:
pause it instead.",
    ),
    (
        "schedules",
        "\
Ticks during a pause are skipped and do not count as missed. `trigger` prints the execution's id.

Examples:
  {program} schedules
  {program} schedules pause report daily
  {program} schedules --json | jq -r 'select(.paused) | .name'",
    ),
    (
        "list",
        "\
Examples:
  {program} list --state failed --newer-than 1d
  {program} list --task greet --json | jq -r .id",
    ),
    (
        "retry",
        "\
Repeats a failed or cancelled execution under a new id, with the same payload and the recorded
steps; the old one keeps its state. A pending execution keeps its id and becomes due now. Prints the
id.",
    ),
    (
        "queues",
        "\
WAITING counts executions that are due, RUNNING those on a worker, PARKED those that wait for a limit
of their task; each count stops at 10,000. WORKERS counts the live processes that serve the queue.

A pause applies to all processes and survives restarts and deploys. Running executions go on; those
that a worker has claimed and not started are given back within a second.

Examples:
  {program} queues
  {program} queues pause fast
  {program} queues resume fast",
    ),
    (
        "drain",
        "\
Executions that are due later stay. The exit code is 0 whether tasks succeed or fail.",
    ),
    (
        "migrate",
        "\
If a migration is marked as breaking, running processes of older builds are asked to drain and end
with exit code 0. The migration waits for them, and fails without a change if some are still there.
A compatible migration does not affect running processes.

Examples:
  {program} migrate
  {program} migrate --wait 10m",
    ),
    (
        "check",
        "\
For CI and before deploys. Read-only: it migrates and declares nothing, so a role that may only read
is enough. It decodes the payload of every live execution, and every recorded value whose type is
known outside the handler: children's outputs, events, sleeps. It does not decode values of ctx.step
and ctx.transaction, whose types only the handler knows.

The exit code is 1 if it finds something.

Examples:
  {program} check
  {program} check --allow-changes && deploy
  {program} check --json | jq .findings",
    ),
    (
        "db",
        "\
Opens psql if it is installed and standard input and output are a terminal. A private server runs as
long as a process of this project does.",
    ),
];
