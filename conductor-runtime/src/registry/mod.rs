//! The tasks and events that are linked into this binary.

mod names;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::json;

use crate::error::{Error, Result};
use crate::event::EventDefinition;
use crate::task::{KeyPlace, LimitDefinition, LimitKind, TaskDefinition};

pub use names::{check_name, nearest};

/// The prefix of the events by which row changes reach waits.
const ROW_CHANGES: &str = "conductor:";

/// All tasks of this binary, by name.
#[derive(Debug)]
pub struct Registry {
    tasks: BTreeMap<&'static str, &'static TaskDefinition>,
    faults: Vec<String>,
}

impl Registry {
    /// Returns the tasks that `#[task]` registered; collected once.
    pub fn global() -> &'static Registry {
        static GLOBAL: OnceLock<Registry> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            let mut registry = Registry::of(inventory::iter::<TaskDefinition>());
            registry.faults.extend(event_faults(EventDefinition::all()));
            registry
        })
    }

    fn of(definitions: impl IntoIterator<Item = &'static TaskDefinition>) -> Registry {
        let mut tasks: BTreeMap<&'static str, &'static TaskDefinition> = BTreeMap::new();
        let mut faults = Vec::new();
        for definition in definitions {
            faults.extend(timing_faults(definition));
            match tasks.get(definition.name) {
                Some(first) => faults.push(format!(
                    "two tasks have the name {:?}: {} and {}; give one of them `name = \"…\"`",
                    definition.name, first.place, definition.place
                )),
                None => {
                    tasks.insert(definition.name, definition);
                }
            }
        }
        faults.extend(shared_faults(tasks.values().copied()));
        Registry { tasks, faults }
    }

    /// Returns the tasks, ordered by name.
    pub fn tasks(&self) -> impl Iterator<Item = &'static TaskDefinition> {
        self.tasks.values().copied()
    }

    /// Returns the task of this name.
    pub fn get(&self, name: &str) -> Option<&'static TaskDefinition> {
        self.tasks.get(name).copied()
    }

    /// Returns the faults that prevent any start: two tasks with one name, an invalid rule.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Returns the error for an unknown name, with the most similar known one.
    pub fn unknown(&self, name: &str) -> Error {
        let hint = match nearest(name, self.tasks.keys().copied()) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => String::new(),
        };
        Error::UnknownTask {
            name: name.to_owned(),
            hint,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Refused(self.faults.clone()))
        }
    }
}

/// Returns events that share a name, and events whose names are reserved for row changes.
fn event_faults(definitions: impl Iterator<Item = &'static EventDefinition>) -> Vec<String> {
    let mut events: BTreeMap<&str, &EventDefinition> = BTreeMap::new();
    definitions
        .filter_map(|event| {
            if event.name.starts_with(ROW_CHANGES) {
                return Some(format!(
                    "the event {:?} at {} cannot have a name that begins with {ROW_CHANGES:?}; give it another `name`",
                    event.name, event.place
                ));
            }
            let first = events.insert(event.name, event)?;
            Some(format!(
                "two events have the name {:?}: {} and {}; give one of them `name = \"…\"`",
                event.name, first.place, event.place
            ))
        })
        .collect()
}

/// Returns limits that share a name but differ in amount or queue.
fn shared_faults(tasks: impl Iterator<Item = &'static TaskDefinition>) -> Vec<String> {
    let mut first: BTreeMap<(bool, &str), (&TaskDefinition, &LimitDefinition)> = BTreeMap::new();
    let mut faults = Vec::new();
    for task in tasks {
        for limit in task.limits {
            let Some(name) = limit.name else { continue };
            let is_rate = matches!(limit.kind, LimitKind::Rate { .. });
            let (other, same) = *first.entry((is_rate, name)).or_insert((task, limit));
            let what = if (same.kind, same.amount) != (limit.kind, limit.amount) {
                "have different numbers: give both the same"
            } else if other.queue != task.queue {
                "are in different queues: a limit is shared within a queue, whose worker lets the oldest start first"
            } else {
                continue;
            };
            faults.push(format!(
                "the tasks {:?} at {} and {:?} at {} share the limit {name:?} and {what}",
                other.name, other.place, task.name, task.place
            ));
        }
    }
    faults
}

/// Returns invalid rules of a task, which no macro has checked.
fn timing_faults(task: &TaskDefinition) -> Vec<String> {
    let crons = task.crons.iter().map(|cron| (cron.name, cron.check()));
    let window = task
        .window
        .map(|window| ("window", window.read().map(drop)));
    let keys = KeyPlace::all(task).filter(|key| !key.path.is_empty());
    let keys: Vec<_> = keys.collect();
    let schema = (!keys.is_empty()).then(|| task.payload_schema());
    let keys = keys.iter().map(|key| {
        let schema = schema.as_ref().unwrap_or(&serde_json::Value::Null);
        let checked = key.check(schema).and_then(|()| key.check_starts(task));
        (key.what, checked)
    });
    // With limits or turns, executions start one by one; a batch runs several together.
    let one_by_one = !task.limits.is_empty() || !task.ordered_by.is_empty();
    let batch = (task.batch().is_some() && one_by_one).then(|| {
        let fault = "a batch cannot have limits or be ordered".to_owned();
        ("batch", Err(fault))
    });
    let events =
        (task.subscriptions.iter()).map(|subscription| (subscription.event, subscription.check()));
    crons
        .chain(window)
        .chain(keys)
        .chain(events)
        .chain(batch)
        .filter_map(|(what, checked)| {
            let reason = checked.err()?;
            Some(format!(
                "task {:?} at {}, {what:?}: {reason}",
                task.name, task.place
            ))
        })
        .collect()
}

/// Returns the input of `conductor.declare_tasks`.
pub(crate) fn declaration<'a>(
    tasks: impl Iterator<Item = &'a TaskDefinition>,
) -> serde_json::Value {
    tasks
        .map(|task| {
            json!({
                "name": task.name,
                "queue": task.queue,
                "package": task.package,
                "place": task.place.to_string(),
                "docs": task.docs,
                "priority": task.priority,
                "max_attempts": task.retry.max_attempts,
                "backoff_initial_ms": task.retry.backoff_initial.as_secs_f64() * 1e3,
                "backoff_max_ms": task.retry.backoff_max.as_secs_f64() * 1e3,
                "jitter": task.retry.jitter,
                "timeout_ms": task.timeout.map(|timeout| timeout.as_secs_f64() * 1e3),
                "time_window": task.window.map(|window| json!({
                    "hours": window.times,
                    "days": window.days,
                    "timezone": window.timezone,
                })),
                "limits": task.limits.iter().map(LimitDefinition::declaration).collect::<Vec<_>>(),
                "ordered_by": (!task.ordered_by.is_empty()).then_some(task.ordered_by),
                "keep_completed_ms": task.keep.completed.as_secs_f64() * 1e3,
                "keep_failed_ms": task.keep.failed.as_secs_f64() * 1e3,
                "payload_schema": task.payload_schema(),
                "output_schema": task.output_schema(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::TaskContext;
    use crate::task::{Handler, Place, Task};

    struct Nothing;

    impl Task for Nothing {
        type Payload = ();
        type Output = ();
        const NAME: &'static str = "nothing";
    }

    impl Handler for Nothing {
        async fn call(_ctx: &TaskContext, _payload: ()) -> anyhow::Result<()> {
            Ok(())
        }
    }

    const PLACE: Place = Place {
        file: "a.rs",
        line: 1,
    };

    const fn sharing(
        name: &'static str,
        queue: &'static str,
        limits: &'static [LimitDefinition],
    ) -> TaskDefinition {
        let mut task = TaskDefinition::of::<Nothing>(PLACE, "", "")
            .queue(queue)
            .limits(limits);
        task.name = name;
        task
    }

    #[test]
    fn a_shared_limit_is_one() {
        const FIVE: &[LimitDefinition] = &[LimitDefinition::concurrency(5).shared("stripe")];
        const SIX: &[LimitDefinition] = &[LimitDefinition::concurrency(6).shared("stripe")];
        const RATE: &[LimitDefinition] = &[LimitDefinition::rate(6, 1000).shared("stripe")];
        static TASKS: [TaskDefinition; 5] = [
            sharing("a", "fast", FIVE),
            sharing("b", "fast", FIVE),
            sharing("c", "fast", RATE),
            sharing("d", "fast", SIX),
            sharing("e", "slow", FIVE),
        ];
        assert!(shared_faults(TASKS[..3].iter()).is_empty());
        let faults = shared_faults(TASKS.iter());
        assert_eq!(faults.len(), 2, "{faults:?}");
        for (fault, part) in faults.iter().zip(["different numbers", "different queues"]) {
            assert!(
                fault.contains(part) && fault.contains("\"stripe\""),
                "{fault}"
            );
        }
    }
}
