use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::lease::LeaseTimes;
use super::{Orchestrator, Worker};
use crate::client::Conductor;
use crate::db::MIGRATION_DEADLINE;
use crate::error::{Error, Result};
use crate::registry::{Registry, check_name};
use crate::task::States;

/// The queue of tasks that name none.
const DEFAULT_QUEUE: &str = "default";

/// Describes an [`Orchestrator`]; also what `setup:` of `conductor::main!` is given.
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

    /// The client that the orchestrator works with.
    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// Adds a worker. Where none is added, every queue that a task names has one; where some are,
    /// only the queue "default" has one by itself.
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

    /// Serves these queues and no others, whatever was added before; other processes serve the
    /// rest. What `worker --queue …` does.
    #[must_use]
    pub fn only_workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.workers = workers.into_iter().collect();
        self.exact = true;
        self.allow_unserved_queues()
    }

    /// Gives handlers a value, by `State<T>` or `ctx.state::<T>()`; one a type.
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

    /// How long running handlers may go on after a shutdown began. Default 30 s.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// How long the start waits for older processes to end, where it has to apply a migration that is
    /// marked as breaking; after that it is refused. Default 60 s. It only counts where the client has
    /// not migrated before, as [`Conductor::open`] leaves it.
    #[must_use]
    pub fn migration_deadline(mut self, deadline: Duration) -> Self {
        self.migration_deadline = deadline;
        self
    }

    /// Refuses to start where a look at the database finds something that this program cannot work
    /// with, such as payloads that it cannot read; without this, it is logged as a warning. What
    /// `worker --strict` does. See [`Conductor::check`] for what is looked at; at a start only the
    /// oldest 10,000 executions are (1,000 without this), for two seconds at most.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// How often the lease is renewed, and how long it lasts. Default 5 s and 15 s; a lease is at
    /// least three heartbeats long.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration, lease: Duration) -> Self {
        self.lease = LeaseTimes { every, lease };
        self
    }

    /// Starts although some task's queue has no worker here, nor in another living process; its
    /// executions wait until somebody serves the queue. Without this, to start is refused with the
    /// task's place in the source.
    #[must_use]
    pub fn allow_unserved_queues(mut self) -> Self {
        self.allow_unserved = true;
        self
    }

    /// Makes and drops no triggers on tables, for those who apply such changes by hand: the command
    /// `triggers --sql` prints them. To start is refused where a trigger that a task needs is missing. What
    /// `worker --no-ddl` does.
    #[must_use]
    pub fn no_ddl(mut self) -> Self {
        self.ddl = false;
        self
    }

    /// Checks what can be checked without the database.
    ///
    /// # Errors
    /// [`Error::Refused`] with every fault found: two tasks with one name, two workers for one
    /// queue, a `State<T>` that was not given, times that make no sense.
    pub fn build(self) -> Result<Orchestrator> {
        let registry = Registry::global();
        let mut faults: Vec<String> = registry.faults().to_vec();
        for (at, worker) in self.workers.iter().enumerate() {
            if let Err(reason) = check_name(&worker.queue) {
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
