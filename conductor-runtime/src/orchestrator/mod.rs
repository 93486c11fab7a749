//! The workers of one process: identity, lease, recovery, shutdown.

mod builder;
mod channels;
mod chores;
mod core;
mod declared;
mod dispatcher;
mod ground;
mod handle;
mod launch;
mod lease;
mod maintenance;
mod retirement;
mod rows;
mod scheduler;
mod service;
mod side;
mod signal;

use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::too_new;

pub use crate::worker::{DEFAULT_CONCURRENCY, Worker};
pub use builder::Builder;
pub(crate) use dispatcher::declared_subscriptions;
pub(crate) use ground::Kept;
pub use handle::Handle;
pub(crate) use scheduler::{computed, declared_schedules};

use crate::client::Conductor;
use crate::error::Result;
use crate::task::States;
use lease::LeaseTimes;

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
    /// - [`Error::Schema`](crate::error::Error::Schema) if it had to end for a newer build that applies a breaking
    ///   migration.
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
    /// - [`Error::Refused`](crate::error::Error::Refused) if a task's queue has no worker in any living process, if a
    ///   task listens to a table or column that does not exist, or if a [strict](Builder::strict) start finds
    ///   something.
    /// - [`Error::Locked`](crate::error::Error::Locked) if a table is locked for so long that its trigger cannot be
    ///   created.
    /// - Those of [`Conductor::connect`].
    pub async fn start(self) -> Result<Handle> {
        self.launch(None, None, None).await
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
