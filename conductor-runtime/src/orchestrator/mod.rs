//! The workers of one process: identity, lease, recovery, shutdown.

mod builder;
mod chores;
mod core;
mod dispatcher;
mod ground;
mod handle;
mod lease;
mod maintenance;
mod rows;
mod scheduler;
mod side;
mod signal;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::{Alone, Clock, too_new};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

pub use crate::worker::{DEFAULT_CONCURRENCY, Worker};
pub use builder::Builder;
use core::{Core, Orders};
pub(crate) use dispatcher::declared_subscriptions;
pub(crate) use ground::Kept;
pub use handle::Handle;
pub(crate) use scheduler::{computed, declared_schedules};

use crate::check;
use crate::client::Conductor;
use crate::context::Durable;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::task::{States, TaskDefinition};
use crate::worker::{BootInstant, Control, Phase, Pipeline, Recorder, Signals, Standing};
use ground::Ground;
use lease::{Identity, LeaseTimes};
use side::Side;

/// The workers of this process, before they are started.
///
/// ```no_run
/// use conductor::prelude::*;
///
/// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
/// Orchestrator::builder(conductor)
///     .worker(Worker::queue("fast").concurrency(5))
///     .worker(Worker::queue("slow").concurrency(1))
///     .build()?
///     .run()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Orchestrator {
    conductor: Conductor,
    workers: Vec<Worker>,
    states: Arc<States>,
    lease: LeaseTimes,
    shutdown_deadline: Duration,
    migration_deadline: Duration,
    allow_unserved: bool,
    strict: bool,
    ddl: bool,
}

impl Orchestrator {
    /// Returns a builder for an orchestrator of all tasks in this binary.
    pub fn builder(conductor: Conductor) -> Builder {
        Builder::new(conductor)
    }

    /// Returns the client that the orchestrator uses.
    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// Returns the workers, including those that [`Builder::worker`] adds by default.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Runs until SIGTERM or SIGINT, then shuts down in order.
    ///
    /// The shutdown claims nothing more, lets running handlers continue until the deadline, writes what has finished
    /// and releases the rest. A second signal ends the process at once, and what it held is recovered after its
    /// lease. The same shutdown follows if a newer build is about to apply a breaking migration.
    ///
    /// Signals are received on a thread of their own. If handlers block their threads beyond the deadline, this
    /// returns without them. If one of them still holds a thread 5 s later, the process exits with status 0, whatever
    /// the program does after this call.
    ///
    /// # Errors
    /// Those of [`start`](Self::start) and [`Handle::stop`].
    pub async fn run(self) -> Result<()> {
        let signals = signal::Shutdown::listen()?;
        let handle = self.launch(Some(signals), None, None).await?;
        serve(handle, std::future::pending::<()>()).await
    }

    /// Runs until `end` is ready, then shuts down in order, as [`Handle::stop`] does.
    ///
    /// For a program that handles signals itself, for example because a web server runs beside the workers. This
    /// function handles no signal. The future's output is dropped. The workers are started first; a future that is
    /// ready by then stops them at once.
    ///
    /// Like [`run`](Self::run), it also returns if a newer build is about to apply a breaking migration, or if a part
    /// of the orchestrator has ended. The rest of the program should end then, too.
    ///
    /// ```no_run
    /// use conductor::prelude::*;
    ///
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// Orchestrator::builder(conductor)
    ///     .build()?
    ///     .run_until(tokio::signal::ctrl_c())
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// If the returned future is dropped, the workers end as in a crash; see [`Handle`].
    ///
    /// # Errors
    /// Those of [`start`](Self::start) and [`Handle::stop`].
    pub async fn run_until(self, end: impl Future) -> Result<()> {
        let handle = self.start().await?;
        serve(handle, end).await
    }

    /// Removes what is past its retention, runs until nothing is due or running, then stops.
    ///
    /// What is due later stays.
    ///
    /// # Errors
    /// - Those of [`start`](Self::start) and [`Handle::drained`].
    /// - [`Error::Schema`] if it had to end for a newer build that applies a breaking migration.
    pub async fn drain(self) -> Result<()> {
        self.drain_on(None).await
    }

    /// The same, on a thread and connections that stay.
    pub(crate) async fn drain_on(self, kept: Option<&Kept>) -> Result<()> {
        self.conductor
            .migrate_within(self.migration_deadline)
            .await?;
        let conductor = self.conductor.clone();
        let pruning = tokio::spawn(async move { maintenance::catch_up(&conductor).await });
        let abort = pruning.abort_handle();
        let handle = self.launch(None, Some(pruning), kept).await;
        let handle = handle.inspect_err(|_| abort.abort())?;
        let drained = tokio::select! {
            drained = handle.drained() => drained,
            version = handle.retired() => Err(too_new(version).into()),
        };
        let stopped = handle.stop().await;
        drained.and(stopped)
    }

    /// Starts the workers in the background: migrates, declares the tasks, takes a lease.
    ///
    /// Handlers run on the async runtime in which this is called. Everything else runs on two threads of its own,
    /// which end with the [`Handle`].
    ///
    /// # Errors
    /// - [`Error::Refused`] if a task's queue has no worker in any living process, if a task listens to a table or
    ///   column that does not exist, or if a [strict](Builder::strict) start finds something.
    /// - [`Error::Locked`] if a table is locked for so long that its trigger cannot be created.
    /// - Those of [`Conductor::connect`].
    pub async fn start(self) -> Result<Handle> {
        self.launch(None, None, None).await
    }

    /// Starts the workers, after the task `before` has ended.
    async fn launch(
        self,
        told_to_end: Option<signal::Shutdown>,
        before: Option<JoinHandle<()>>,
        kept: Option<&Kept>,
    ) -> Result<Handle> {
        let Self {
            conductor,
            workers,
            states,
            lease,
            shutdown_deadline,
            migration_deadline,
            allow_unserved,
            strict,
            ddl,
        } = self;
        conductor.migrate_within(migration_deadline).await?;
        look_before(&conductor, strict).await?;
        let rules = rows::check(&conductor).await?;
        let registry = conductor.registry();
        let Numbers {
            all_tasks,
            queue_ids,
            mut by_queue,
        } = Numbers::of(&conductor.declare().await?, registry);
        if !allow_unserved {
            refuse_unserved(&conductor, &workers, &queue_ids).await?;
        }
        let heart = Side::start("conductor-lease")?;
        // Its connections are opened while the rest is declared.
        let mut ground = Ground::begin(kept, &conductor, workers.len())?;

        // A worker without a task of this binary could claim nothing.
        let workers: Vec<Worker> = workers
            .into_iter()
            .filter(|worker| by_queue.contains_key(worker.queue.as_str()))
            .collect();
        let served = || {
            workers
                .iter()
                .filter_map(|worker| by_queue.get(worker.queue.as_str()))
        };
        let statics = scheduler::declare(&conductor).await?;
        let identity = Identity {
            queue_ids: workers
                .iter()
                .filter_map(|worker| queue_ids.get(worker.queue.as_str()).copied())
                .collect(),
            task_ids: served().flat_map(HashMap::keys).copied().collect(),
            schedule_ids: statics.keys().copied().collect(),
        };
        dispatcher::declare(&conductor, &all_tasks).await?;
        rows::declare(&conductor, &all_tasks, &rules, ddl).await?;
        let inner = ground.inner().await?;
        let work = ground.work();
        dispatcher::catch_up(&conductor).await;
        if let Some(before) = before {
            // Pruning must end first, so that it removes nothing that this run creates, however short its retention
            // is. A panic in it was already logged.
            before.await.ok();
        }
        let (now, shift_ms) = conductor.clock().await?;
        // Before any deadline begins: a listener that is kept may not have heard of the last shift yet.
        inner.notifier().note_clock_shift(shift_ms);
        let clock = Clock::new(inner.notifier().clock_shift_ms());
        clock.set(now, shift_ms);
        let taken = BootInstant::now();
        let mut tx = conductor.database().begin_as(lease::MODE).await?;
        let id = lease::start(&mut tx, &identity, lease)
            .await
            .map_err(|error| match lease::too_new_for(&error) {
                Some(version) => too_new(version),
                None => error.into(),
            })?;
        tx.end().await?;

        let (control, heard) = watch::channel(Control {
            orchestrator: Some(id),
            until: lease.until(taken),
            phase: Phase::Working,
        });
        let tasks = served().flat_map(HashMap::values).map(|task| task.name);
        let serving = inner.notifier().ends().serving(tasks.collect());
        let signals = Signals {
            control: heard,
            busy: watch::channel(0).0,
            lease_lost: Arc::new(Notify::new()),
        };
        let durable = Durable {
            conductor: conductor.clone(),
            recorder: Recorder::new(inner.clone(), conductor.database(), work.beside().clone()),
            standing: Standing::new(inner.clone(), work.beside()),
            control: signals.control.clone(),
            orchestrator: Some(id),
            clock: clock.clone(),
            ddl,
        };
        let at_work = watch::Sender::new(());
        let mut pipelines = Vec::new();
        for worker in &workers {
            let (Some(queue_id), Some(tasks)) = (
                queue_ids.get(worker.queue.as_str()),
                by_queue.remove(worker.queue.as_str()),
            ) else {
                continue;
            };
            tracing::info!(queue = %worker.queue, concurrency = worker.concurrency, tasks = tasks.len(), "worker started");
            pipelines.push(Pipeline::new(
                inner.clone(),
                durable.clone(),
                worker,
                *queue_id,
                tasks,
                Arc::clone(&states),
                signals.clone(),
            ));
        }
        let mut keepers = JoinSet::new();
        keepers.spawn_on(
            chores::chores(inner.clone(), signals.control.clone(), lease.every),
            work.runtime(),
        );
        keepers.spawn_on(
            chores::heed_cancels(inner.clone(), signals.control.clone()),
            work.runtime(),
        );
        keepers.spawn_on(
            maintenance::keep(inner.clone(), signals.control.clone(), lease.every, ddl),
            work.runtime(),
        );
        let static_ids: Vec<i64> = statics.keys().copied().collect();
        keepers.spawn_on(
            scheduler::keep(inner.clone(), statics, clock, signals.control.clone()),
            work.runtime(),
        );
        keepers.spawn_on(
            dispatcher::keep(inner.clone(), signals.control.clone()),
            work.runtime(),
        );
        let busy = signals.busy.subscribe();
        let told = watch::Sender::new(None);
        let heartbeat = heart.runtime().spawn(lease::keep(
            inner.clone(),
            identity.clone(),
            lease,
            control.clone(),
            signals,
            taken,
            told.clone(),
        ));
        let retired = watch::Sender::new(None);
        let ended = retired.subscribe();
        keepers.spawn_on(
            handle::retire(
                inner.clone(),
                told.subscribe(),
                retired,
                control.clone(),
                at_work.clone(),
                shutdown_deadline,
            ),
            work.runtime(),
        );
        let stop = watch::Sender::new(false);
        let end = watch::Sender::new(core::End::default());
        let how = end.subscribe();
        let runtime = work.runtime().clone();
        let threads: Vec<Side> = ground.into_own().into_iter().chain([heart]).collect();
        runtime.spawn(
            Core {
                orders: Orders::new(stop.subscribe(), told_to_end, conductor.pool().clone()),
                conductor: inner,
                control,
                pipelines,
                _serving: serving,
                at_work,
                keepers,
                lease: heartbeat,
                shutdown_deadline,
                end,
                finish: threads.iter().map(Side::finish).collect(),
                closes: kept.is_none(),
            }
            .run(),
        );
        Ok(Handle {
            conductor,
            stop,
            end: how,
            busy,
            retired: ended,
            identity,
            static_ids,
            threads,
            states,
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
}

/// Waits until the future is ready or the work has ended by itself, then stops the workers.
async fn serve(handle: Handle, end: impl Future) -> Result<()> {
    tokio::select! {
        _ = end => {}
        () = core::over(handle.end.clone()) => {}
        version = handle.retired() => {
            tracing::warn!(version, "drained; start the newer build of this program");
        }
    }
    handle.stop().await
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
    let elsewhere: Vec<i32> = sqlx::query_scalar(
        "select distinct unnest(queue_ids) from conductor.orchestrators
          where lease_until > clock_timestamp()",
    )
    .all(conductor.database())
    .await?;
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
