//! The children of an execution, and their children.

use std::collections::{BTreeMap, HashMap};

use anstyle::Style;
use chrono::{DateTime, Utc};
use conductor_runtime::client::{Brief, Child, Conductor, Status};
use conductor_runtime::error::Result;
use uuid::Uuid;

use super::output::{self, Cells, FAINT, of_state, styled};
use super::tree::{self, Tree};

/// The number of generations that are shown.
const GENERATIONS: usize = 4;
/// The number of parts shown of one `invoke_all`, and of children shown of a child.
const FEW: u32 = 5;
/// The number of children shown of the execution itself.
const MANY: usize = 30;

/// The loaded descendants of an execution, by their parents.
pub(crate) struct Family {
    children: HashMap<Uuid, Vec<Child>>,
    now: DateTime<Utc>,
}

impl Family {
    /// Loads the descendants of these children.
    pub(crate) async fn of(
        conductor: &Conductor,
        parent: Uuid,
        children: Vec<Child>,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut family = Self {
            children: HashMap::from([(parent, children)]),
            now,
        };
        let mut generation = vec![parent];
        for _ in 1..GENERATIONS {
            generation = generation
                .iter()
                .filter_map(|parent| family.children.get(parent))
                .flat_map(|children| chosen(children))
                .map(|child| child.id)
                .filter(|id| !family.children.contains_key(id))
                .collect();
            if generation.is_empty() {
                break;
            }
            for child in conductor.inspect().children(&generation, FEW).await? {
                family
                    .children
                    .entry(child.parent_id)
                    .or_default()
                    .push(child);
            }
        }
        Ok(family)
    }

    /// Returns the summary of a child, if it still exists.
    pub(crate) fn find(&self, parent: Uuid, id: Uuid) -> Option<&Brief> {
        let child = self
            .children
            .get(&parent)?
            .iter()
            .find(|child| child.id == id)?;
        child.execution.as_ref()
    }

    /// Returns a branch for each child of this execution that is shown.
    pub(crate) fn branches(&self, parent: Uuid) -> Vec<Tree> {
        self.generation(parent, 1)
    }

    fn generation(&self, parent: Uuid, number: usize) -> Vec<Tree> {
        let Some(children) = self.children.get(&parent) else {
            return Vec::new();
        };
        let shown = if number < GENERATIONS {
            chosen(children)
        } else {
            Vec::new()
        };
        let lines = tree::aligned(shown.iter().map(|child| self.cells(child)));
        let mut branches: Vec<Tree> = lines
            .into_iter()
            .zip(&shown)
            .map(|(line, child)| line.over(self.generation(child.id, number + 1)))
            .collect();
        let all = children.first().map_or(0, |child| child.siblings);
        let left = usize::try_from(all)
            .unwrap_or(0)
            .saturating_sub(shown.len());
        if left > 0 {
            let text = if shown.is_empty() {
                format!("… {left} of its own")
            } else {
                let rest = children
                    .iter()
                    .filter(|child| !shown.iter().any(|other| other.id == child.id));
                format!("… and {left} more{}", tally(rest, left))
            };
            branches.push(Tree::new(styled(FAINT, &text)));
        }
        branches
    }

    fn cells(&self, child: &Child) -> Cells {
        let plain = |text: String| (text, Style::new());
        let key = child.key.as_ref().map(ToString::to_string);
        let (task, state, note) = match &child.execution {
            Some(brief) => (
                output::line(&brief.task, 40),
                (brief.state.to_string(), of_state(brief.state)),
                self.note(child, brief),
            ),
            None => {
                let recorded = child.recorded.as_deref().unwrap_or("unknown");
                (
                    String::new(),
                    (recorded.replace('_', " "), Style::new()),
                    "removed since".to_owned(),
                )
            }
        };
        vec![
            plain(output::line(&key.unwrap_or_default(), 40)),
            plain(task),
            plain(child.id.to_string()),
            state,
            (note, FAINT),
        ]
    }

    fn note(&self, child: &Child, brief: &Brief) -> String {
        let mut notes = Vec::new();
        if child.recorded.as_deref() == Some("timed_out") {
            notes.push("came too late".to_owned());
        }
        if let Some((end, start)) = brief.finished_at.zip(brief.claimed_at) {
            notes.push(format!("ran {}", output::short(end - start)));
        }
        if let Some(error) = &brief.error {
            notes.push(output::line(error, 60));
        }
        notes.extend(waiting(brief, self.now));
        notes.join(", ")
    }
}

/// Returns what an unclaimed execution waits for, except for the waits of its own handler.
pub(crate) fn waiting(brief: &Brief, now: DateTime<Utc>) -> Option<String> {
    let due = brief.run_at.filter(|at| *at > now);
    match (brief.state, due) {
        (_, Some(at)) if brief.postponed => Some(output::window(at, now)),
        (Status::Pending, Some(at)) if brief.failures > 0 => {
            Some(format!("next attempt {}", output::relative(at, now)))
        }
        (Status::Pending, Some(at)) => Some(format!("due {}", output::relative(at, now))),
        (Status::Pending, None) if brief.served => Some("for a free worker".to_owned()),
        (Status::Pending, None) => Some("none of the running workers has this task".to_owned()),
        _ => None,
    }
}

/// Returns the children that are shown, in order. Of the parts of one key only a few are, preferably unfinished or
/// failed ones.
fn chosen(children: &[Child]) -> Vec<&Child> {
    let mut groups: BTreeMap<(Uuid, &str), Vec<&Child>> = BTreeMap::new();
    let mut first_of: HashMap<&str, Uuid> = HashMap::new();
    for child in children {
        let parts = child.key.as_ref().filter(|key| key.part.is_some());
        // A child without parts is a group of its own.
        let (first, name) = match parts {
            Some(key) => (
                *first_of.entry(&key.name).or_insert(child.id),
                key.name.as_str(),
            ),
            None => (child.id, ""),
        };
        groups.entry((first, name)).or_default().push(child);
    }
    let mut shown = Vec::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|child| (completed(child), part(child)));
        group.truncate(FEW as usize);
        group.sort_by_key(|child| part(child));
        shown.extend(group);
    }
    shown.truncate(MANY);
    shown
}

fn part(child: &Child) -> Option<u64> {
    child.key.as_ref().and_then(|key| key.part)
}

fn completed(child: &Child) -> bool {
    match &child.execution {
        Some(brief) => brief.state == Status::Completed,
        None => child.recorded.as_deref() == Some(Status::Completed.as_str()),
    }
}

/// Returns a summary such as ": 3 completed, 1 failed", or an empty text if not all children are loaded.
fn tally<'c>(children: impl Iterator<Item = &'c Child>, of: usize) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for child in children {
        let state = match &child.execution {
            Some(brief) => brief.state.as_str(),
            None => "removed",
        };
        *counts.entry(state).or_default() += 1;
    }
    if counts.values().sum::<usize>() != of {
        return String::new();
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    format!(": {}", counts.join(", "))
}
