//! What an orchestrator checks and declares before it takes a lease.

use std::collections::HashMap;

use conductor_postgres::store::leases::Identity;
use conductor_postgres::store::processes;

use super::Orchestrator;
use super::scheduler::{self, Statics};
use super::{dispatcher, lease, rows};
use crate::check;
use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::row::Rule;
use crate::task::TaskDefinition;
use crate::worker::Worker;

/// What was checked, and the numbers that the database has given to the tasks.
pub(super) struct Checked {
    rules: Vec<Rule>,
    numbers: Numbers,
}

/// What this process has declared.
pub(super) struct Declared {
    pub(super) identity: Identity,
    pub(super) queues: Vec<ServedQueue>,
    pub(super) statics: Statics,
}

/// A queue that this process serves.
pub(super) struct ServedQueue {
    pub(super) worker: Worker,
    pub(super) id: i32,
    pub(super) tasks: HashMap<i32, &'static TaskDefinition>,
}

impl Orchestrator {
    /// Migrates, declares the tasks, and checks whether this program and the database fit.
    pub(super) async fn check(&self) -> Result<Checked> {
        let conductor = &self.conductor;
        conductor.migrate_within(self.migration_deadline).await?;
        look_before(conductor, self.strict).await?;
        let rules = rows::check(conductor).await?;
        let numbers = Numbers::of(&conductor.declare().await?, conductor.registry());
        if !self.allow_unserved {
            refuse_unserved(conductor, &self.workers, &numbers.queue_ids).await?;
        }
        Ok(Checked { rules, numbers })
    }

    /// Declares what starts the tasks: schedules, events and changes of rows.
    pub(super) async fn declare(&self, checked: Checked) -> Result<Declared> {
        let conductor = &self.conductor;
        let Checked { rules, mut numbers } = checked;
        let queues = numbers.served(&self.workers);
        let statics = scheduler::declare(conductor).await?;
        let identity = lease::identity(
            queues.iter().map(|queue| queue.id).collect(),
            queues
                .iter()
                .flat_map(|q| q.tasks.keys().copied())
                .collect(),
            statics.keys().copied().collect(),
        );
        dispatcher::declare(conductor, &numbers.all_tasks).await?;
        rows::declare(conductor, &numbers.all_tasks, &rules, self.ddl).await?;
        Ok(Declared {
            identity,
            queues,
            statics,
        })
    }
}

/// The numbers that the database has given to what this process declares.
struct Numbers {
    all_tasks: Vec<i32>,
    queue_ids: HashMap<&'static str, i32>,
    /// The tasks of each queue.
    by_queue: HashMap<&'static str, HashMap<i32, &'static TaskDefinition>>,
}

impl Numbers {
    fn of(declared: &[(i32, i32, String)], registry: &Registry) -> Self {
        let mut numbers = Self {
            all_tasks: declared.iter().map(|(task_id, _, _)| *task_id).collect(),
            queue_ids: HashMap::new(),
            by_queue: HashMap::new(),
        };
        for (task_id, queue_id, name) in declared {
            if let Some(task) = registry.get(name) {
                numbers.queue_ids.insert(task.queue, *queue_id);
                let tasks = numbers.by_queue.entry(task.queue).or_default();
                tasks.insert(*task_id, task);
            }
        }
        numbers
    }

    /// Returns the queues that have a worker here. A worker without a task of this binary could claim
    /// nothing, so it is left out.
    fn served(&mut self, workers: &[Worker]) -> Vec<ServedQueue> {
        let served = workers.iter().filter_map(|worker| {
            let tasks = self.by_queue.remove(worker.queue.as_str())?;
            let id = *self.queue_ids.get(worker.queue.as_str())?;
            let worker = worker.clone();
            Some(ServedQueue { worker, id, tasks })
        });
        served.collect()
    }
}

/// Logs what this program cannot work with, or returns it as an error if `strict`.
async fn look_before(conductor: &Conductor, strict: bool) -> Result<()> {
    match check::at_start(conductor, strict).await {
        Ok(findings) if findings.is_empty() => Ok(()),
        Ok(findings) if strict => Err(Error::Refused(
            findings.iter().map(ToString::to_string).collect(),
        )),
        Ok(findings) => {
            for finding in findings {
                tracing::warn!("{finding}");
            }
            Ok(())
        }
        Err(error) if strict => Err(error),
        Err(error) => {
            tracing::warn!(%error, "what is in the database was not looked at");
            Ok(())
        }
    }
}

/// Returns an error if a task's queue has no worker here and none in another living process.
async fn refuse_unserved(
    conductor: &Conductor,
    workers: &[Worker],
    queue_ids: &HashMap<&str, i32>,
) -> Result<()> {
    let unserved: Vec<_> = conductor
        .registry()
        .tasks()
        .filter(|task| !workers.iter().any(|worker| worker.queue == task.queue))
        .collect();
    if unserved.is_empty() {
        return Ok(());
    }
    let elsewhere = processes::served_queues(conductor.database()).await?;
    let refused: Vec<String> = unserved
        .into_iter()
        .filter(|task| {
            !queue_ids
                .get(task.queue)
                .is_some_and(|id| elsewhere.contains(id))
        })
        .map(|task| {
            format!(
                "task {:?} at {} has the queue {:?}, which no worker serves, here or elsewhere; add `Worker::queue({:?})`, or let it wait by `.allow_unserved_queues()`",
                task.name, task.place, task.queue, task.queue
            )
        })
        .collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Error::Refused(refused))
    }
}
