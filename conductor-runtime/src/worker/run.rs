//! The worker of one queue in one process: it carries out what its [`Machine`] decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor_postgres::store::ClaimRequest;
use conductor_postgres::{Barrier, Clock, Database, Session};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use super::config::Worker;
use super::control::{Control, Signals};
use super::crew::{Crew, USE_INSTEAD};
use super::delivery::Tried;
use super::exchange::{Line, round_trip};
use super::execute::AttemptEnv;
use super::locked::try_locked;
use super::machine::{Action, Event, MOST_TRIPS, Machine};
use super::protocol::{Exchanged, Request};
use super::pulse::Held;
use super::window::Windows;
use crate::client::Conductor;
use crate::context::Durable;
use crate::task::{States, TaskDefinition};

/// A handler that has had no thread for this long is given back.
const NO_THREAD: Duration = Duration::from_secs(2);

/// A running worker: the loop that owns all its state.
pub(crate) struct QueueWorker {
    queue: String,
    machine: Machine,
    crew: Crew,
    windows: Windows,
    /// Uses connections of the runtime on which the worker runs.
    line: Line,
    clock: Clock,
    control: watch::Receiver<Control>,
    wake: Arc<Notify>,
    cancels: broadcast::Receiver<Uuid>,
    trips: JoinSet<(Exchanged, Option<Session>)>,
    tries: JoinSet<Tried>,
    /// Sessions of the last trips, kept for the next ones because their statements are prepared.
    spare: Vec<Session>,
    barrier: Option<Barrier>,
    busy: watch::Sender<usize>,
    counted_busy: bool,
    lease_lost: Arc<Notify>,
}

async fn over(barrier: &mut Option<Barrier>) {
    match barrier {
        Some(barrier) => barrier.over().await,
        None => std::future::pending().await,
    }
}

impl QueueWorker {
    /// Creates a worker whose handlers run on the runtime in which this is called; `conductor` is for the worker's own
    /// statements.
    pub(crate) fn new(
        conductor: Conductor,
        durable: Durable,
        worker: &Worker,
        queue_id: i32,
        tasks: HashMap<i32, &'static TaskDefinition>,
        states: Arc<States>,
        signals: Signals,
    ) -> Self {
        let windows = Windows::of(&tasks);
        let clock = durable.clock.clone();
        let env = AttemptEnv {
            states,
            windows: windows.clone(),
            durable: Arc::new(durable),
        };
        Self {
            queue: worker.queue.clone(),
            machine: Machine::new(queue_id, worker.concurrency, &tasks, Instant::now()),
            crew: Crew::new(tasks, env, signals.control.clone()),
            windows,
            clock,
            wake: conductor.notifier().queue(queue_id),
            cancels: conductor.notifier().cancels(),
            line: Line {
                conductor,
                control: signals.control.clone(),
            },
            control: signals.control,
            trips: JoinSet::new(),
            tries: JoinSet::new(),
            spare: Vec::new(),
            barrier: None,
            busy: signals.busy,
            counted_busy: false,
            lease_lost: signals.lease_lost,
        }
    }

    /// Works until the orchestrator stops and everything that was claimed is written or released. Returns the handlers
    /// that have not yielded by then.
    pub(crate) async fn run(mut self) -> Vec<Held> {
        loop {
            if self.database().is_closed() {
                // Without connections, nothing can be written.
                return self.crew.left_behind();
            }
            self.step();
            if self.machine.is_over(Instant::now()) {
                break;
            }
            let wakes_at = self.machine.wakes_at();
            // Every arm may be cancelled: each waits for a time, or for a signal that is kept until it is received.
            tokio::select! {
                changed = self.control.changed() => {
                    if changed.is_err() {
                        // The orchestrator is gone; its lease will expire.
                        return self.crew.left_behind();
                    }
                }
                Some(returned) = self.trips.join_next() => self.returned(returned),
                () = over(&mut self.barrier) => {}
                Some(tried) = self.tries.join_next() => self.tried(tried),
                ended = self.crew.ended() => {
                    ended.into_iter().for_each(|ended| self.tell(Event::Ended(ended)));
                }
                () = self.wake.notified() => self.tell(Event::Woken),
                cancelled = self.cancels.recv() => self.cancelled(cancelled),
                () = tokio::time::sleep_until(wakes_at.into()) => self.tell(Event::Time),
            }
        }
        tracing::debug!(queue = %self.queue, "worker stopped");
        self.crew.left_behind()
    }

    /// Does what is to be done now.
    fn step(&mut self) {
        let (phase, holder) = {
            let control = self.control.borrow_and_update();
            (control.phase, control.holder())
        };
        self.tell(Event::Control { phase, holder });
        if self.barrier.as_ref().is_some_and(Barrier::is_over) {
            self.barrier = None;
            self.tell(Event::Settled);
        }
        while let Some(action) = self.machine.next(Instant::now()) {
            self.perform(action);
        }
        self.crew.begin();
        self.count_busy();
    }

    fn tell(&mut self, event: Event) {
        self.machine.on(event, Instant::now());
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Serve(orchestrator) => self.crew.serve(orchestrator),
            Action::TellOfDoubt { running } => {
                tracing::warn!(queue = %self.queue, running, "lease in doubt; handlers are stopped");
            }
            Action::TellOfLostLease => self.lease_lost.notify_one(),
            Action::Start(handler, turn) => {
                if let Some(ended) = self.crew.add(handler, turn) {
                    self.tell(Event::Ended(ended));
                }
            }
            Action::AbortAll => self.crew.abort_all(),
            Action::TakeBack => self.take_back(Duration::ZERO, false),
            Action::Cancel(handler, id) => self.crew.cancel(handler, id),
            Action::AwaitSettling => {
                self.crew.begin();
                self.barrier = Some(Barrier::behind(self.crew.runtime()));
            }
            Action::Exchange(request) => self.exchange(request),
            Action::Try(outcomes, request) => {
                let request = self.with_windows(request);
                let tried = try_locked(self.database().clone(), outcomes, request);
                self.tries.spawn(tried);
            }
            Action::Inspect => self.inspect(),
            Action::Rest => self.spare.clear(),
        }
    }

    fn database(&self) -> &Database {
        self.line.conductor.database()
    }

    /// Adds what depends on the application's clock.
    fn with_windows(&self, mut request: ClaimRequest) -> ClaimRequest {
        request.windows = self.windows.columns(self.clock.now());
        request
    }

    fn exchange(&mut self, mut request: Request) {
        request.claim = self.with_windows(request.claim);
        let spare = self.spare.pop();
        self.trips
            .spawn(round_trip(self.line.clone(), request, spare));
    }

    fn returned(&mut self, returned: Result<(Exchanged, Option<Session>), JoinError>) {
        let (exchanged, session) = match returned {
            Ok(returned) => returned,
            Err(error) => {
                tracing::error!(%error, "a round trip panicked");
                return self.tell(Event::ExchangeLost);
            }
        };
        // A session is kept only if other parts of this process do not need it.
        let keeps = |session: &Session| session.is_young() && self.database().has_plenty();
        let session = session.filter(keeps);
        if self.spare.len() < MOST_TRIPS {
            self.spare.extend(session);
        }
        self.tell(Event::Exchanged(Box::new(exchanged)));
    }

    fn tried(&mut self, tried: Result<Tried, JoinError>) {
        let tried = tried.unwrap_or_else(|error| {
            tracing::error!(%error, "a try to write an outcome panicked");
            Tried::Lost
        });
        self.tell(Event::Tried(tried));
    }

    fn cancelled(&mut self, cancelled: Result<Uuid, RecvError>) {
        match cancelled {
            Ok(id) => self.tell(Event::Cancelled(id)),
            Err(RecvError::Lagged(_)) => self.line.conductor.notifier().ask_for_cancels(),
            Err(RecvError::Closed) => {}
        }
    }

    fn inspect(&mut self) {
        if self.trips.is_empty() {
            self.spare.clear();
        }
        self.spare.retain(Session::is_young);
        self.take_back(NO_THREAD, true);
        self.crew.tell_of_blocking();
    }

    /// Takes back handlers that have had no thread for this long, perhaps because others block the threads.
    fn take_back(&mut self, after: Duration, starving: bool) {
        let handlers = self.crew.take_back(after);
        if handlers.is_empty() {
            return;
        }
        if starving {
            tracing::warn!(queue = %self.queue, handlers = handlers.len(), running = self.crew.len(),
                "no thread is free for handlers that are to start, as others block them; they are given back, \
                 and nothing is claimed until a thread is free. {USE_INSTEAD}");
        }
        self.tell(Event::TakenBack { handlers, starving });
    }

    fn count_busy(&mut self) {
        let busy = !self.machine.has_nothing();
        if busy != self.counted_busy {
            self.counted_busy = busy;
            self.busy
                .send_modify(|count| if busy { *count += 1 } else { *count -= 1 });
        }
    }
}
