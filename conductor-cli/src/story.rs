//! The history of an execution as a tree: its origin, its steps, its waits and its outcome.

use conductor_runtime::client::{Process, Reason, Status, Story};
use conductor_runtime::task::Trigger;
use serde_json::value::RawValue;

use super::children::Family;
use super::output::{self, ERROR, FAINT, STRONG, moment, of_state, styled};
use super::tree::{Tree, row};
use super::{json, steps, waits};

/// The maximum number of columns of a value on one line.
const VALUE: usize = 80;
/// The maximum number of lines of a payload, an output or an error, and of their columns.
const LINES: usize = 40;
const COLUMNS: usize = 200;
pub(crate) fn tree(told: &Story, family: &Family) -> Tree {
    let info = &told.info;
    let mut tree = Tree::new(format!(
        "{} {}  {}",
        styled(STRONG, &output::line(&info.task, 100)),
        info.id,
        styled(of_state(info.state), info.state.as_str())
    ));
    for (name, text) in rows(told) {
        tree.push(row(name, &text));
    }
    tree.push(block("payload", &laid_out(&info.payload)));
    if let Some(attempts) = attempts(told) {
        tree.push(attempts);
    }
    section(&mut tree, "steps", steps::branches(told));
    section(&mut tree, "children", family.branches(info.id));
    if let Some(waits) = waits::branch(told, family) {
        tree.push(waits);
    }
    if let Some(output) = &info.output {
        tree.push(block("output", &laid_out(output)));
    } else if let Some((name, text)) = reason(told) {
        tree.push(block(name, &output::lines(text)));
    }
    if let Some(failure) = &info.failure {
        tree.push(block("failure", &laid_out(failure)));
    }
    tree
}

/// Adds a section, unless it is empty.
fn section(tree: &mut Tree, name: &str, branches: Vec<Tree>) {
    if !branches.is_empty() {
        tree.push(Tree::with(styled(FAINT, name), branches));
    }
}

/// Returns JSON on one line if it fits, otherwise on several lines.
fn laid_out(value: &RawValue) -> String {
    let one = json::compact(value.get());
    if output::width(&one) <= VALUE {
        return one;
    }
    json::pretty(&one, "")
}

/// Returns a text on the line of its name, or below it if the text has several lines.
fn block(name: &str, text: &str) -> Tree {
    let lines = excerpt(text);
    match lines.as_slice() {
        [one] => row(name, one),
        _ => Tree::new(format!("{}\n  {}", styled(FAINT, name), lines.join("\n  "))),
    }
}

/// Returns the first lines of a text, each cut to a readable length.
fn excerpt(text: &str) -> Vec<String> {
    let mut cut = false;
    let mut rest = text.lines();
    let mut lines: Vec<String> = rest
        .by_ref()
        .take(LINES)
        .map(|line| {
            cut |= output::width(line) > COLUMNS;
            output::line(line, COLUMNS)
        })
        .collect();
    if cut || rest.next().is_some() {
        lines.push(styled(FAINT, "… cut; --json shows all of it"));
    }
    lines
}

fn rows(told: &Story) -> Vec<(&'static str, String)> {
    let (info, now) = (&told.info, told.now);
    let queue = output::line(&info.queue, 100);
    let mut rows = vec![("queue", format!("{queue}, priority {}", info.priority))];
    if let Some(parent) = &told.parent {
        let known = parent.execution.as_ref().map(|brief| {
            let state = styled(of_state(brief.state), brief.state.as_str());
            format!("{} {}  {state}", output::line(&brief.task, 100), parent.id)
        });
        rows.push((
            "parent",
            known.unwrap_or_else(|| format!("{}, removed since", parent.id)),
        ));
    }
    if let Some(before) = info.retry_of {
        rows.push(("repeats", before.to_string()));
    }
    if let Some(key) = &info.dedupe_key {
        rows.push(("key", output::line(key, 100)));
    }
    let by = match &info.trigger {
        Trigger::Schedule { name, scheduled_at } => format!(
            " by schedule {} for {}",
            output::line(name, 100),
            scheduled_at.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        Trigger::Event { name, event_id, .. } => {
            format!(" by event {} {event_id}", output::line(name, 100))
        }
        Trigger::Row { table, op } => format!(" by an {op} of {}", output::line(table, 140)),
        _ => String::new(),
    };
    rows.extend(unsteady(told));
    rows.push(("invoked", format!("{}{by}", moment(info.created_at, now))));
    if let Some(at) = info.claimed_at {
        rows.push((
            "claimed",
            format!("{}, claim {}", moment(at, now), info.claim),
        ));
    }
    if info.state == Status::Running {
        rows.extend(running(told));
    }
    if told.cancelled && !info.state.is_final() {
        let reason = told.cancel_reason.as_deref();
        let reason = reason.map_or_else(String::new, |reason| {
            format!(": {}", output::line(reason, COLUMNS))
        });
        rows.push((
            "cancel",
            format!("asked for, ends with this attempt{reason}"),
        ));
    }
    // The waits of a suspended execution have a section of their own.
    let waits = matches!(told.why.reason, Reason::Waits { .. });
    if matches!(info.state, Status::Pending | Status::Suspended) && !waits {
        rows.push(("why", output::line(&told.why.text, COLUMNS)));
    }
    if let Some(at) = info.finished_at {
        let took = info.claimed_at.map(|start| output::short(at - start));
        let took = took.map_or_else(String::new, |took| format!(", ran {took}"));
        rows.push(("ended", format!("{}{took}", moment(at, now))));
    }
    rows
}

/// Returns rows about a handler that does not do the same in each run.
fn unsteady(told: &Story) -> impl Iterator<Item = (&'static str, String)> {
    let astray = told.astray.as_ref().map(|astray| {
        let runs = match astray.runs {
            1 => "1 run".to_owned(),
            runs => format!("{runs} runs"),
        };
        let key = output::line(&astray.key, 100);
        let what = format!(
            "{runs} in a row did not ask for what had come, last for {key:?}: its keys change at each run"
        );
        ("astray", what)
    });
    let changed = told.new_input.as_ref().map(|key| {
        let key = output::line(key, 100);
        let what = format!(
            "a later run called {key:?} with something else than the run that recorded it: the handler does not do \
             the same in each run"
        );
        ("changed", what)
    });
    astray.into_iter().chain(changed)
}

/// Returns the rows about the process that runs the execution, and whether the execution seems stuck.
fn running(told: &Story) -> Vec<(&'static str, String)> {
    let process = told
        .runner
        .as_ref()
        .and_then(|runner| runner.process.as_ref());
    let passed = told.info.claimed_at.map(|since| told.now - since);
    let took = passed.map_or_else(String::new, |passed| {
        format!(", for {}", output::short(passed))
    });
    let by = match process {
        Some(Process { host, pid, .. }) if host.is_empty() => format!("by process {pid}{took}"),
        Some(Process { host, pid, .. }) => {
            format!("by process {pid} on {}{took}", output::line(host, 100))
        }
        None => format!("by a process that is gone{took}"),
    };
    let mut rows = vec![("runs", by)];
    let mut stuck = |text: String| rows.push(("stuck?", styled(ERROR, &text)));
    if process.is_none() {
        stuck("its process is gone".to_owned());
    }
    let lease = process.map(|process| process.lease_left);
    if let Some(over) = lease.filter(|left| left.num_milliseconds() < 0) {
        stuck(format!(
            "the process's lease is over since {}; a living worker will take the execution back",
            output::short(-over)
        ));
    }
    if let Some((passed, limit)) = passed
        .zip(told.timeout)
        .filter(|(passed, limit)| passed > limit)
    {
        stuck(format!(
            "{} longer than its timeout of {}: its handler does not yield, it blocks its thread",
            output::short(passed - limit),
            output::short(limit)
        ));
    }
    rows
}

fn attempts(told: &Story) -> Option<Tree> {
    let info = &told.info;
    let mut parts = Vec::new();
    if info.failures > 0 {
        parts.push(format!("{} of {} failed", info.failures, told.max_attempts));
    }
    if info.crashes > 0 {
        parts.push(format!("{} died with their process", info.crashes));
    }
    let branches = told.failures.iter().map(|failure| {
        let at = moment(failure.failed_at, told.now);
        let error = excerpt(&output::lines(&failure.error)).join("\n   ");
        Tree::new(format!("{}  {at}\n   {error}", failure.attempt))
    });
    let text = format!("{} {}", styled(FAINT, "attempts"), parts.join(", "));
    (!parts.is_empty()).then(|| Tree::with(text, branches))
}

/// Returns the error or the cancel reason, unless the attempts show it already.
fn reason(told: &Story) -> Option<(&'static str, &str)> {
    let info = &told.info;
    let text = info.error.as_deref()?;
    match info.state {
        Status::Cancelled => Some(("reason", text)),
        _ if told.failures.iter().any(|failure| failure.error == text) => None,
        _ => Some(("error", text)),
    }
}
