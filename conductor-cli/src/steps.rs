//! The records of an execution, one per line.

use std::collections::HashMap;

use anstyle::Style;
use chrono::{DateTime, Utc};
use conductor_runtime::client::{StepInfo, Story};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json;
use super::output::{self, Cells, FAINT, STRONG};
use super::tree::{self, Tree};

/// The columns of a key and of a value.
const KEY: usize = 40;
const VALUE: usize = 80;
/// The number of lines shown from the beginning, and from the end.
const LINES: usize = 50;
/// The number of parts shown of one `invoke_all`.
const PARTS: usize = 5;

/// Returns a line for each record and each sleep that is over, in order of time.
pub(crate) fn branches(told: &Story) -> Vec<Tree> {
    let mut lines: Vec<Line<'_>> = told.steps.iter().map(Line::of).collect();
    let until = told.info.finished_at.unwrap_or(told.now);
    for wait in (told.waits.iter()).filter(|wait| wait.child_id.is_none() && wait.event.is_none()) {
        let (Some(at), key) = (wait.wake_at, output::line(&wait.key.to_string(), KEY)) else {
            continue;
        };
        let end = if at <= until {
            "over"
        } else if told.info.state.is_final() {
            "cut short"
        } else {
            continue;
        };
        let cells = entry(at, &wait.kind, key, end.to_owned());
        lines.push(Line {
            at,
            part: None,
            cells,
        });
    }
    // The parts of one call are grouped at the time of the earliest one, and ordered by their numbers.
    let mut first: HashMap<&str, DateTime<Utc>> = HashMap::new();
    for (line, (name, _)) in lines.iter().filter_map(|line| Some((line, line.part?))) {
        let earliest = first.entry(name).or_insert(line.at);
        *earliest = line.at.min(*earliest);
    }
    lines.sort_by_cached_key(|line| {
        let group = line.part.and_then(|(name, _)| first.get(name));
        (group.copied().unwrap_or(line.at), line.part)
    });
    // Each row, with the number of steps that it stands for.
    let mut rows: Vec<(usize, Cells)> = Vec::new();
    for group in lines.chunk_by(|a, b| a.group().is_some() && a.group() == b.group()) {
        rows.extend(group.iter().take(PARTS).map(|line| (1, line.cells.clone())));
        if group.len() > PARTS {
            rows.push((group.len() - PARTS, more(group.len() - PARTS)));
        }
    }
    if rows.len() > 2 * LINES {
        let late = rows.split_off(rows.len() - LINES);
        let left = rows.split_off(LINES).iter().map(|(steps, _)| steps).sum();
        rows.push((left, more(left)));
        rows.extend(late);
    }
    tree::aligned(rows.into_iter().map(|(_, cells)| cells))
}

/// A record, or a sleep that is over.
struct Line<'t> {
    at: DateTime<Utc>,
    /// The key of the call and the number of the part.
    part: Option<(&'t str, u64)>,
    cells: Cells,
}

impl<'t> Line<'t> {
    fn of(step: &'t StepInfo) -> Self {
        Self {
            at: step.recorded_at,
            part: step.key.part.map(|part| (step.key.name.as_str(), part)),
            cells: cells(step),
        }
    }

    fn group(&self) -> Option<&str> {
        self.part.map(|(name, _)| name)
    }
}

fn cells(step: &StepInfo) -> Cells {
    let value = match step.kind.as_str() {
        "invoke" => ended(&step.value),
        _ => output::line(&json::compact(step.value.get()), VALUE),
    };
    let key = output::line(&step.key.to_string(), KEY);
    entry(step.recorded_at, &step.kind, key, value)
}

fn entry(at: DateTime<Utc>, kind: &str, key: String, value: String) -> Cells {
    let at = at.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    vec![
        (at, FAINT),
        (output::line(kind, KEY), Style::new()),
        (key, STRONG),
        (value, Style::new()),
    ]
}

/// Returns a row for the lines left out, with its text in the column of the keys.
fn more(left: usize) -> Cells {
    let empty = || (String::new(), Style::new());
    vec![
        empty(),
        empty(),
        (format!("… and {left} more"), FAINT),
        empty(),
    ]
}

/// Returns the outcome of a child from the record of its parent.
fn ended(recorded: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Ended<'r> {
        state: String,
        #[serde(borrow)]
        output: Option<&'r RawValue>,
        error: Option<String>,
    }
    match serde_json::from_str::<Ended<'_>>(recorded.get()) {
        Ok(Ended {
            output: Some(output),
            ..
        }) => output::line(&json::compact(output.get()), VALUE),
        Ok(Ended { state, error, .. }) => {
            let error = error.map_or_else(String::new, |error| format!(": {error}"));
            output::line(&format!("{}{error}", state.replace('_', " ")), VALUE)
        }
        Err(_) => output::line(&json::compact(recorded.get()), VALUE),
    }
}
