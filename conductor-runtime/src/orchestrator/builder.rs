use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conductor_core::name_problem;
use conductor_postgres::MIGRATION_DEADLINE;

use super::lease::LeaseTimes;
use super::{Orchestrator, Worker};
use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::task::States;

/// The queue of tasks that name no queue.
const DEFAULT_QUEUE: &str = "default";

/// A builder for an [`Orchestrator`]; also the argument of `setup:` in `conductor::main!`.
#[derive(Debug)]
pub struct Builder {
    conductor: Conductor,
    workers: Vec<Worker>,
    states: States,
    lease: LeaseTimes,
    shutdown_deadline: Duration,
    migration_deadline: Duration,
    allow_unserved: bool,
    strict: bool,
    ddl: bool,
    exact: bool,
}

impl Builder {
    pub(super) fn new(conductor: Conductor) -> Self {
        Self {
            conductor,
            workers: Vec::new(),
            states: States::default(),
            lease: LeaseTimes::default(),
            shutdown_deadline: Duration::from_secs(30),
            migration_deadline: MIGRATION_DEADLINE,
            allow_unserved: false,
            strict: false,
            ddl: true,
            exact: false,
        }
    }

    /// Returns the client that the orchestrator uses.
    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// Runs these tasks instead of those that are linked into the program.
    ///
    /// See [`Registry`] for when one wants this. Also replaces the tasks that
    /// [`conductor`](Self::conductor) knows.
    #[must_use]
    pub fn tasks(mut self, registry: Registry) -> Self {
        self.conductor = self.conductor.with_tasks(registry);
        self
    }

    /// Adds a worker.
    ///
    /// If no worker is added, every queue that a task names gets one. If some are, only the queue
    /// `default` is added, if a task uses it.
    #[must_use]
    pub fn worker(mut self, worker: Worker) -> Self {
        self.workers.push(worker);
        self
    }

    /// Adds several workers.
    #[must_use]
    pub fn workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.workers.extend(workers);
        self
    }

    /// Serves exactly these queues, whatever was added before, as `worker --queue …` does.
    ///
    /// Queues that no worker serves are then allowed; other processes serve them.
    #[must_use]
    pub fn only_workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.workers = workers.into_iter().collect();
        self.exact = true;
        self.allow_unserved_queues()
    }

    /// Provides a value to handlers, one per type.
    ///
    /// They receive it as an argument `State<T>`, or by `ctx.state::<T>()`.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn states(mut self, states: States) -> Self {
        self.states = states;
        self
    }

    /// Sets how long running handlers may continue after a shutdown began. Default: 30 s.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// Sets how long the start waits for older processes to end. Default: 60 s.
    ///
    /// It waits if it has to apply a breaking migration.
    ///
    /// After that the start fails. Has an effect only if the client has not migrated before, for
    /// example if it was opened with [`Conductor::open`].
    #[must_use]
    pub fn migration_deadline(mut self, deadline: Duration) -> Self {
        self.migration_deadline = deadline;
        self
    }

    /// Fails to start if a check of the database finds something that does not fit.
    ///
    /// For example, payloads that this program cannot read. Default: such findings are logged as
    /// warnings.
    ///
    /// The same as `worker --strict`. See [`Conductor::check`] for what is checked. At the start,
    /// only the oldest 10,000 executions are checked (1,000 without this option), for at most two
    /// seconds.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Sets how often the lease is renewed and how long it lasts. Defaults: 5 s and 15 s.
    ///
    /// The lease must be at least three heartbeats long. After a crash, the process's executions
    /// are recovered once its lease has expired.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration, lease: Duration) -> Self {
        self.lease = LeaseTimes { every, lease };
        self
    }

    /// Starts even if a task's queue has no worker in any living process.
    ///
    /// Executions in that queue wait until a process serves it. Without this option, the start
    /// fails with the task's place in the source.
    #[must_use]
    pub fn allow_unserved_queues(mut self) -> Self {
        self.allow_unserved = true;
        self
    }

    /// Never creates or drops triggers on tables, as `worker --no-ddl` does.
    ///
    /// For installations that apply such changes by hand; the command `triggers --sql` prints the
    /// statements. The start fails if a trigger that a task needs is missing.
    #[must_use]
    pub fn no_ddl(mut self) -> Self {
        self.ddl = false;
        self
    }

    /// Checks what can be checked without the database, and builds the orchestrator.
    ///
    /// # Errors
    /// [`Error::Refused`] with every fault found: two tasks with one name, two workers for one
    /// queue, an invalid queue name, a missing `State<T>`, or a lease that is shorter than three
    /// heartbeats.
    pub fn build(self) -> Result<Orchestrator> {
        let registry = self.conductor.registry();
        let mut faults = registry.faults();
        for (at, worker) in self.workers.iter().enumerate() {
            if let Some(reason) = name_problem(&worker.queue) {
                faults.push(format!(
                    "the queue name {:?} cannot be used: {reason}",
                    worker.queue
                ));
            }
            if self.workers[..at].iter().any(|w| w.queue == worker.queue) {
                faults.push(format!("two workers serve the queue {:?}", worker.queue));
            }
        }
        for task in registry.tasks() {
            for need in task.states {
                if !self.states.contains(need.id()) {
                    faults.push(format!(
                        "task {:?} at {} wants State<{}>; add `.state(…)` with a value of this type",
                        task.name,
                        task.place,
                        need.name(),
                    ));
                }
            }
        }
        if self.lease.every.is_zero() || self.lease.lease < self.lease.every * 3 {
            faults.push(format!(
                "a lease of {:?} with a heartbeat every {:?}: the lease must be at least three heartbeats long",
                self.lease.lease, self.lease.every
            ));
        }
        if !faults.is_empty() {
            return Err(Error::Refused(faults));
        }
        let workers = if self.exact {
            self.workers
        } else {
            with_defaults(self.workers, registry)
        };
        Ok(Orchestrator {
            conductor: self.conductor,
            workers,
            states: Arc::new(self.states),
            lease: self.lease,
            shutdown_deadline: self.shutdown_deadline,
            migration_deadline: self.migration_deadline,
            allow_unserved: self.allow_unserved,
            strict: self.strict,
            ddl: self.ddl,
        })
    }
}

fn with_defaults(mut workers: Vec<Worker>, registry: &Registry) -> Vec<Worker> {
    let queues: BTreeSet<&str> = registry.tasks().map(|task| task.queue).collect();
    if workers.is_empty() {
        return queues.into_iter().map(Worker::queue).collect();
    }
    if queues.contains(DEFAULT_QUEUE) && !workers.iter().any(|w| w.queue == DEFAULT_QUEUE) {
        workers.push(Worker::queue(DEFAULT_QUEUE));
    }
    workers
}
