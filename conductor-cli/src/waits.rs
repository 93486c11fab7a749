//! Describes what an execution waits for.

use anstyle::Style;
use conductor_runtime::client::{Status, Story, WaitInfo};

use super::children::{Family, waiting};
use super::output::{self, Cells, FAINT, STRONG, moment, of_state, styled};
use super::tree::{self, Tree, row};

/// The columns of a key or a name.
const KEY: usize = 40;
/// The number of parts shown of one `invoke_all`.
const PARTS: usize = 5;

/// Returns the branch of the waits; `None` if the execution has ended, or runs and waits for nothing.
pub(crate) fn branch(told: &Story, family: &Family) -> Option<Tree> {
    let (info, now) = (&told.info, told.now);
    let worker = if told.served {
        "for a free worker"
    } else {
        "for a worker: none that has this task is running"
    };
    let due = info.run_at.filter(|at| *at > now);
    if info.state.is_final() {
        return None;
    }
    let mut rows: Vec<Cells> = Vec::new();
    let open: Vec<&WaitInfo> = told
        .waits
        .iter()
        .filter(|wait| wait.child_id.is_some() || wait.wake_at.is_none_or(|at| at > now))
        .collect();
    for group in open.chunk_by(|a, b| a.key.part.is_some() && a.key.name == b.key.name) {
        for wait in group.iter().take(PARTS) {
            let key = output::line(&wait.key.to_string(), KEY);
            rows.push(vec![
                (key, STRONG),
                (awaited(wait, told, family), Style::new()),
            ]);
        }
        if group.len() > PARTS {
            let left = format!("… and {} more", group.len() - PARTS);
            rows.push(vec![(left, FAINT), (String::new(), Style::new())]);
        }
    }
    let itself = match (info.state, due) {
        (_, Some(at)) if info.postponed => {
            Some(format!("for its window, opens {}", moment(at, now)))
        }
        (Status::Pending, Some(at)) if info.failures > 0 => Some(format!(
            "for its next attempt, due {}",
            output::relative(at, now)
        )),
        (Status::Pending, Some(at)) => Some(format!("for its time, {}", moment(at, now))),
        // `run_at` is `None` while it waits for a child, or without a deadline.
        (Status::Suspended, None) if info.run_at.is_some() => Some(worker.to_owned()),
        (Status::Suspended, _) if !told.served => {
            Some("and then for a worker: none that has this task is running".to_owned())
        }
        _ => None,
    };
    if rows.is_empty() {
        return itself.map(|text| row("waits", &text));
    }
    let mut branches = tree::aligned(rows);
    branches.extend(itself.map(Tree::new));
    Some(Tree::with(styled(FAINT, "waits"), branches))
}

fn awaited(wait: &WaitInfo, told: &Story, family: &Family) -> String {
    let now = told.now;
    let deadline = wait.wake_at.map(|at| moment(at, now));
    let Some(child) = wait.child_id else {
        let event = wait.event.as_deref().map(|name| output::line(name, KEY));
        return match (wait.kind.as_str(), deadline) {
            ("event", deadline) => {
                let limit = deadline.map_or_else(String::new, |at| format!("; at most until {at}"));
                let which = if wait.filtered {
                    "a matching event"
                } else {
                    "an event"
                };
                format!("for {which} {}{limit}", event.unwrap_or_default())
            }
            ("row", deadline) => {
                let limit = deadline.map_or_else(String::new, |at| format!("; at most until {at}"));
                let change = wait.event.as_deref().unwrap_or_default();
                let change = output::row_change(change).unwrap_or(change);
                let which = match wait.filtered {
                    true => "a matching",
                    false if change.starts_with("delete ") => "a",
                    false => "an",
                };
                format!("for {which} {}{limit}", output::line(change, 2 * KEY))
            }
            ("sleep", Some(at)) => format!("asleep until {at}"),
            (kind, Some(at)) => format!("{}, at most until {at}", output::line(kind, KEY)),
            (kind, None) => output::line(kind, KEY),
        };
    };
    let limit = deadline.map_or_else(String::new, |at| format!("; at most until {at}"));
    let what = match family.find(told.info.id, child) {
        Some(brief) => {
            let state = styled(of_state(brief.state), brief.state.as_str());
            let detail = waiting(brief, now).map_or_else(String::new, |why| format!(": {why}"));
            format!("{}, {state}{detail}", output::line(&brief.task, KEY))
        }
        None => child.to_string(),
    };
    format!("for its child {what}{limit}")
}
