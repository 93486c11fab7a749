//! The tasks and events of a client or an orchestrator; by default those that are linked into this binary.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, OnceLock};

use serde_json::json;

use crate::error::{Error, LINKED_TASKS, Result};
use crate::event::{Event, EventDefinition};
use crate::task::{Declared, KeyPlace, LimitDefinition, LimitKind, Place, TaskDefinition};

/// The prefix of the events by which row changes reach waits.
const ROW_CHANGES: &str = "conductor:";

/// A set of tasks and events: those of an orchestrator, and those that a client knows.
///
/// By default it is [`linked`](Self::linked). Give another one to
/// [`Builder::tasks`](crate::orchestrator::Builder::tasks) if one process runs several orchestrators
/// with different tasks, or if a test must not run all tasks of its binary. A task with
/// `#[task(linked = false)]` is in no registry to which it was not added.
///
/// ```no_run
/// use conductor::Registry;
/// use conductor::prelude::*;
///
/// #[task]
/// async fn resize(ctx: &TaskContext, path: String) -> anyhow::Result<()> { Ok(()) }
///
/// #[task(linked = false)]
/// async fn wipe(ctx: &TaskContext) -> anyhow::Result<()> { Ok(()) }
///
/// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
/// let images = Orchestrator::builder(conductor.clone()).build()?; // resize
/// let admin = Orchestrator::builder(conductor)
///     .tasks(Registry::new().task::<Wipe>()) // wipe alone
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    tasks: BTreeMap<&'static str, &'static TaskDefinition>,
    events: BTreeMap<&'static str, EventDefinition>,
    faults: Vec<String>,
    /// What an orchestrator declares of all tasks, once it was computed; shared by clones.
    declaration: Arc<OnceLock<String>>,
}

impl Registry {
    /// Returns an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the tasks and events that are linked into this program, except tasks with
    /// `linked = false`.
    pub fn linked() -> Self {
        Self::global().clone()
    }

    /// Returns the same as [`linked`](Self::linked); collected once.
    #[doc(hidden)]
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Registry> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            let mut registry = Self::new();
            for task in inventory::iter::<TaskDefinition>() {
                registry.add_task(task);
            }
            for event in EventDefinition::all() {
                registry.add_event(*event);
            }
            let names = registry.tasks.keys().copied().collect();
            // Nothing else sets them.
            let _ = LINKED_TASKS.set(names);
            registry
        })
    }

    /// Adds a task. Adding it twice is the same as once.
    ///
    /// If another task has its name, the start of an orchestrator fails and names both places.
    #[must_use]
    pub fn task<T: Declared>(mut self) -> Self {
        self.add_task(const { &T::DEFINITION });
        self
    }

    /// Adds an event, so that its schema is declared and its JSON is checked. Adding it twice is the
    /// same as once.
    ///
    /// Tasks can subscribe to events, and handlers emit and wait for them, whether added or not.
    #[must_use]
    #[track_caller]
    pub fn event<E: Event>(mut self) -> Self {
        let id = TypeId::of::<E>();
        let linked = EventDefinition::all().find(|event| (event.type_id)() == id);
        let caller = Location::caller();
        let place = Place {
            file: caller.file(),
            line: caller.line(),
        };
        // A definition by hand has no docs.
        let event = linked.copied();
        self.add_event(event.unwrap_or_else(|| EventDefinition::of::<E>(place, "")));
        self
    }

    fn add_task(&mut self, task: &'static TaskDefinition) {
        self.declaration = Arc::default();
        match self.tasks.get(task.name) {
            Some(first) if (first.type_id)() == (task.type_id)() => return,
            Some(first) => self.faults.push(format!(
                "two tasks have the name {:?}: {} and {}; give one of them `name = \"…\"`",
                task.name, first.place, task.place
            )),
            None => {
                self.tasks.insert(task.name, task);
            }
        }
        self.faults.extend(timing_faults(task));
    }

    /// Returns the declaration of all tasks, as [`declaration`] does.
    pub(crate) fn declaration(&self) -> &str {
        self.declaration
            .get_or_init(|| declaration(self.tasks()).to_string())
    }

    fn add_event(&mut self, event: EventDefinition) {
        if event.name.starts_with(ROW_CHANGES) {
            self.faults.push(format!(
                "the event {:?} at {} cannot have a name that begins with {ROW_CHANGES:?}; give it another `name`",
                event.name, event.place
            ));
            return;
        }
        match self.events.get(event.name) {
            Some(first) if (first.type_id)() == (event.type_id)() => {}
            Some(first) => self.faults.push(format!(
                "two events have the name {:?}: {} and {}; give one of them `name = \"…\"`",
                event.name, first.place, event.place
            )),
            None => {
                self.events.insert(event.name, event);
            }
        }
    }

    /// Returns the tasks, ordered by name.
    pub fn tasks(&self) -> impl Iterator<Item = &'static TaskDefinition> {
        self.tasks.values().copied()
    }

    /// Returns the events, ordered by name.
    pub fn events(&self) -> impl Iterator<Item = &EventDefinition> {
        self.events.values()
    }

    /// Returns the task of this name.
    pub fn get(&self, name: &str) -> Option<&'static TaskDefinition> {
        self.tasks.get(name).copied()
    }

    pub(crate) fn get_event(&self, name: &str) -> Option<&EventDefinition> {
        self.events.get(name)
    }

    /// Returns the faults that prevent any start: two tasks with one name, an invalid rule.
    pub(crate) fn faults(&self) -> Vec<String> {
        let shared = shared_faults(self.tasks());
        self.faults.iter().cloned().chain(shared).collect()
    }

    /// Returns the error for an unknown name, with the most similar known one.
    pub fn unknown(&self, name: &str) -> Error {
        Error::unknown_task(name, self.tasks.keys().copied())
    }

    pub(crate) fn check(&self) -> Result<()> {
        let faults = self.faults();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Refused(faults))
        }
    }
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
    use crate::task::{Handler, Task};

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
