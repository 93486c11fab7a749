//! The start of an orchestrator, phase by phase.

use std::sync::Arc;

use conductor_postgres::store::leases::Identity;
use conductor_postgres::{Clock, Serving};
use tokio::task::{JoinHandle, JoinSet};

use super::channels::Channels;
use super::chores::{Cancels, Chores};
use super::core::{Core, Orders};
use super::declared::ServedQueue;
use super::dispatcher::{self, Dispatcher};
use super::ground::{Ground, Kept};
use super::handle::Handle;
use super::lease::{self, Heartbeat};
use super::maintenance::Maintenance;
use super::retirement::Retiring;
use super::scheduler::{Scheduler, Statics};
use super::service::{Service, keep};
use super::side::Side;
use super::{Orchestrator, signal};
use crate::client::Conductor;
use crate::context::Durable;
use crate::error::Result;
use crate::worker::{Beside, BootInstant, QueueWorker, Standing, StepWriter};

impl Orchestrator {
    /// Starts the workers, after the task `before` has ended.
    pub(super) async fn launch(
        self,
        told_to_end: Option<signal::Shutdown>,
        before: Option<JoinHandle<()>>,
        kept: Option<&Kept>,
    ) -> Result<Handle> {
        let checked = self.check().await?;
        let heart = Side::start("conductor-lease")?;
        // Its connections are opened while the rest is declared.
        let mut ground = Ground::begin(kept, &self.conductor, self.workers.len())?;
        let declared = self.declare(checked).await?;
        let inner = ground.inner().await?;
        dispatcher::catch_up(&self.conductor).await;
        if let Some(before) = before {
            // Pruning must end first, so that it removes nothing that this run creates, however short its retention
            // is. A panic in it was already logged.
            before.await.ok();
        }
        let clock = clock(&self.conductor, &inner).await?;
        let (lease, taken) = lease::take(&self.conductor, &declared.identity, self.lease).await?;

        let parts = Parts {
            orchestrator: self,
            inner,
            work: ground.work().beside().clone(),
            clock,
            channels: Channels::open(lease),
        };
        let heartbeat = parts.heartbeat(declared.identity.clone(), taken);
        let serving = parts.serving(&declared.queues);
        let workers = parts.workers(declared.queues);
        let keepers = parts.services(declared.statics);
        let lease = heart.runtime().spawn(heartbeat.run());
        let threads: Vec<Side> = ground.into_own().into_iter().chain([heart]).collect();
        let channels = &parts.channels;
        let core = Core {
            orders: parts.orders(told_to_end),
            conductor: parts.inner.clone(),
            control: channels.control.clone(),
            workers,
            _serving: serving,
            at_work: channels.at_work.clone(),
            keepers,
            lease,
            shutdown_deadline: parts.orchestrator.shutdown_deadline,
            end: channels.end.clone(),
            finish: threads.iter().map(Side::finish).collect(),
            closes: kept.is_none(),
        };
        parts.work.runtime.spawn(core.run());
        Ok(parts.handle(declared.identity, threads))
    }
}

/// Reads the database's clock, and returns an estimate of it.
async fn clock(conductor: &Conductor, inner: &Conductor) -> Result<Clock> {
    let (now, shift_ms) = conductor.clock().await?;
    // Before any deadline begins: a listener that is kept may not have heard of the last shift yet.
    inner.notifier().note_clock_shift(shift_ms);
    let clock = Clock::new(inner.notifier().clock_shift_ms());
    clock.set(now, shift_ms);
    Ok(clock)
}

/// What the parts of an orchestrator are made of.
struct Parts {
    orchestrator: Orchestrator,
    /// The client for the orchestrator's own work.
    inner: Conductor,
    /// Where that work runs.
    work: Beside,
    clock: Clock,
    channels: Channels,
}

impl Parts {
    fn heartbeat(&self, identity: Identity, taken: BootInstant) -> Heartbeat {
        Heartbeat::new(
            &self.inner,
            identity,
            self.orchestrator.lease,
            taken,
            &self.channels,
        )
    }

    /// Registers which tasks this process serves itself.
    fn serving(&self, queues: &[ServedQueue]) -> Serving {
        let tasks = queues.iter().flat_map(|queue| queue.tasks.values());
        let ends = self.inner.notifier().ends();
        ends.serving(tasks.map(|task| task.name).collect())
    }

    /// Returns the workers, which are not running yet.
    fn workers(&self, queues: Vec<ServedQueue>) -> Vec<QueueWorker> {
        let durable = self.durable();
        let workers = queues.into_iter().map(|queue| {
            let ServedQueue { worker, id, tasks } = queue;
            tracing::info!(queue = %worker.queue, concurrency = worker.concurrency, tasks = tasks.len(), "worker started");
            QueueWorker::new(
                self.inner.clone(),
                durable.clone(),
                &worker,
                id,
                tasks,
                Arc::clone(&self.orchestrator.states),
                self.channels.signals.clone(),
            )
        });
        workers.collect()
    }

    fn durable(&self) -> Durable {
        let conductor = &self.orchestrator.conductor;
        let Self { inner, work, .. } = self;
        let control = self.channels.signals.control.clone();
        let orchestrator = control.borrow().orchestrator;
        Durable {
            conductor: conductor.clone(),
            step_writer: StepWriter::new(inner.clone(), conductor.database(), work.clone()),
            standing: Standing::new(inner.clone(), work),
            control,
            orchestrator,
            clock: self.clock.clone(),
            ddl: self.orchestrator.ddl,
        }
    }

    /// Starts what runs beside the workers.
    fn services(&self, statics: Statics) -> JoinSet<()> {
        let inner = || self.inner.clone();
        let every = self.orchestrator.lease.every;
        let mut services = JoinSet::new();
        self.start(&mut services, Chores::new(inner(), every));
        self.start(&mut services, Cancels::new(inner()));
        self.start(
            &mut services,
            Maintenance::new(inner(), every, self.orchestrator.ddl),
        );
        self.start(
            &mut services,
            Scheduler::new(inner(), statics, self.clock.clone()),
        );
        self.start(&mut services, Dispatcher::new(inner()));
        let retiring = Retiring {
            conductor: inner(),
            retirement: self.channels.retirement.clone(),
            control: self.channels.control.clone(),
            at_work: self.channels.at_work.clone(),
            shutdown_deadline: self.orchestrator.shutdown_deadline,
        };
        services.spawn_on(retiring.run(), &self.work.runtime);
        services
    }

    fn start(&self, services: &mut JoinSet<()>, service: impl Service) {
        let control = self.channels.signals.control.clone();
        services.spawn_on(keep(service, control), &self.work.runtime);
    }

    fn orders(&self, signals: Option<signal::Shutdown>) -> Orders {
        let pool = self.orchestrator.conductor.pool().clone();
        Orders::new(self.channels.stop.subscribe(), signals, pool)
    }

    fn handle(self, identity: Identity, threads: Vec<Side>) -> Handle {
        let channels = self.channels;
        Handle {
            conductor: self.orchestrator.conductor,
            end: channels.end.subscribe(),
            busy: channels.signals.busy.subscribe(),
            retirement: channels.retirement.subscribe(),
            stop: channels.stop,
            identity,
            threads,
            states: self.orchestrator.states,
        }
    }
}
