mod handlers;
mod trips;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conductor_postgres::{Barrier, Database, Session};
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::handlers::{Ended, Running};
use super::backlog::Backlog;
use super::claim::Claim;
use super::config::Worker;
use super::control::{Control, Phase, Signals};
use super::execute::Surroundings;
use super::fetch::{Claimed, Seen};
use super::flush::Returned;
use super::handlers::{HandlerId, Handlers};
use super::left::Left;
use super::locked::Locked;
use super::outcome::{End, Outcome, Unwritten};
use super::pace::Pace;
use super::pulse::Held;
use super::window::Windows;
use crate::client::Conductor;
use crate::context::Durable;
use crate::task::{States, TaskDefinition};

/// How often the worker queries at least, in case notifications are lost.
const POLL: Duration = Duration::from_secs(1);
/// When outcomes that were refused in every form are sent again.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// How long aborted handlers may take to reach their next `.await`.
const STUCK: Duration = Duration::from_secs(3);
/// The most that a worker holds besides its handlers, in bytes: payloads and records that wait for a handler, and
/// outcomes that wait to be written.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Claims that have waited this long for a handler or a slot are given back.
const STALL: Duration = Duration::from_millis(500);

/// A running worker: the loop that owns all its state.
pub(crate) struct Pipeline {
    /// Uses connections of the runtime on which the worker runs.
    conductor: Conductor,
    database: Database,
    queue: String,
    queue_id: i32,
    concurrency: usize,
    tasks: HashMap<i32, &'static TaskDefinition>,
    windows: Windows,
    surroundings: Surroundings,
    control: watch::Receiver<Control>,
    wake: Arc<Notify>,
    cancels: broadcast::Receiver<Uuid>,
    busy: watch::Sender<usize>,
    counted_busy: bool,

    pace: Pace,
    /// The pace of tasks with limits.
    limited: HashMap<i32, Pace>,
    waiting: Backlog,
    /// Ids that were cancelled while a claim was in progress, which may return them.
    cancelled_early: HashSet<Uuid>,
    /// They run on the application's runtime, whose threads they may block.
    handlers: Handlers<Ended>,
    running: HashMap<HandlerId, Running>,
    /// Handlers that were taken back because no thread was free, and whose async tasks have not ended yet.
    taken_back: usize,
    outcomes: Vec<Outcome>,
    /// The bytes of outcomes that are not written, including those in round trips.
    unwritten: Unwritten,
    left: Left,
    trips: JoinSet<Returned>,
    /// Sessions of the last trips, kept for the next ones because their statements are prepared.
    spare: Vec<Session>,
    /// Set while handlers are about to end, so that their outcomes go with the next trip; `stirred` is set when a
    /// handler starts or ends.
    barrier: Option<Barrier>,
    stirred: bool,
    /// The number of claims in the request that is not yet answered.
    asked: usize,
    /// Whether a trip in progress reports slots; no other trip may do so at the same time.
    settling: bool,
    /// Whether the last claim returned as many as were requested, so that there may be more.
    more: bool,
    /// Whether the database knows that this worker sleeps and wants to be woken.
    idle: bool,
    looks: usize,
    faults: usize,
    /// After a fault, nothing is sent before this time.
    patient_until: Instant,
    next_look: Instant,
    /// Where the next scan begins, when the last full scan was and when the next one is, and whether a notification
    /// has arrived since.
    seen: Seen,
    last_whole_look: Instant,
    whole_look_at: Instant,
    woken: bool,
    /// When to check whether the queue is paused, while claims wait for a handler.
    next_pause_look: Instant,
    last_start: Instant,
    /// The orchestrator id under which a claim may have committed without an answer.
    suspect: Option<i64>,
    /// Whether the trip in progress gives such claims back; no other trip may claim at the same time.
    disowning: bool,
    /// How often claims were given back like this. Requests sent before are then void.
    fence: i32,
    /// Outcomes that the database refuses in every form; sent again from time to time.
    refused: Vec<Outcome>,
    refused_at: Instant,
    /// Outcomes of executions that another transaction has locked.
    locked: Locked,
    orchestrator: Option<i64>,
    /// An orchestrator id that the database no longer accepts.
    over: Option<i64>,
    lease_lost: Arc<Notify>,
    halting_since: Option<Instant>,
}

/// Waits until this time; forever if there is none.
async fn start(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn over(barrier: &mut Option<Barrier>) {
    match barrier {
        Some(barrier) => barrier.over().await,
        None => std::future::pending().await,
    }
}

impl Pipeline {
    /// Creates a worker whose handlers run on the runtime in which this is called; `conductor` is for the worker's
    /// own statements.
    pub(crate) fn new(
        conductor: Conductor,
        durable: Durable,
        worker: &Worker,
        queue_id: i32,
        tasks: HashMap<i32, &'static TaskDefinition>,
        states: Arc<States>,
        signals: Signals,
    ) -> Self {
        let now = Instant::now();
        let control = signals.control;
        let orchestrator = control.borrow().orchestrator;
        Self {
            database: conductor.database().clone(),
            queue: worker.queue.clone(),
            queue_id,
            concurrency: worker.concurrency,
            surroundings: Surroundings {
                states,
                windows: Windows::of(&tasks),
                durable: Arc::new(durable),
            },
            windows: Windows::of(&tasks),
            limited: (tasks.iter())
                .filter(|(_, task)| !task.limits.is_empty())
                .map(|(id, _)| (*id, Pace::new(1)))
                .collect(),
            waiting: Backlog::of(&tasks),
            tasks,
            wake: conductor.notifier().queue(queue_id),
            cancels: conductor.notifier().cancels(),
            conductor,
            busy: signals.busy,
            counted_busy: false,
            pace: Pace::new(worker.concurrency),
            cancelled_early: HashSet::new(),
            handlers: Handlers::on(Handle::current()),
            running: HashMap::new(),
            taken_back: 0,
            outcomes: Vec::new(),
            unwritten: Unwritten::default(),
            left: Left::default(),
            trips: JoinSet::new(),
            spare: Vec::new(),
            barrier: None,
            stirred: false,
            asked: 0,
            settling: false,
            more: true,
            idle: false,
            looks: 0,
            faults: 0,
            patient_until: now,
            next_look: now,
            seen: Seen::default(),
            last_whole_look: now,
            whole_look_at: now,
            woken: false,
            next_pause_look: now,
            last_start: now,
            suspect: None,
            disowning: false,
            fence: 0,
            refused: Vec::new(),
            refused_at: now,
            locked: Locked::new(),
            orchestrator,
            over: None,
            lease_lost: signals.lease_lost,
            halting_since: None,
            control,
        }
    }

    /// Works until the orchestrator stops and everything that was claimed is written or released. Returns the
    /// handlers that have not yielded by then.
    pub(crate) async fn run(mut self) -> Vec<Held> {
        loop {
            if self.database.is_closed() {
                // Without connections, nothing can be written.
                return self.left_behind();
            }
            self.heed_control();
            self.start_handlers();
            if !self.wait_for_others() {
                self.send();
            }
            self.send_locked();
            self.count_busy();
            if self.is_over() {
                break;
            }
            let pause_look = self.pause_look();
            let settle_at = self.settle_at();
            let next_try = (self.locked.next_try()).map(|at| at.max(self.patient_until));
            // Every arm may be cancelled: each waits for a time, or for a signal that is kept until it is received.
            tokio::select! {
                changed = self.control.changed() => {
                    if changed.is_err() {
                        // The orchestrator is gone; its lease will expire.
                        return self.left_behind();
                    }
                }
                Some(returned) = self.trips.join_next() => self.received(returned),
                () = over(&mut self.barrier) => {}
                ended = self.locked.ended() => {
                    let outcomes = self.locked.take(ended);
                    self.outcomes.extend(outcomes);
                }
                ended = self.handlers.ended() => {
                    for (handler, end) in ended {
                        self.ended(handler, end);
                    }
                }
                () = self.wake.notified() => {
                    self.woken = true;
                    self.next_pause_look = Instant::now();
                    self.look();
                }
                cancelled = self.cancels.recv() => self.cancelled(cancelled),
                () = tokio::time::sleep_until(self.next_look.into()) => self.tick(),
                // Without a free slot and room for its outcome, nothing can start, however long it has been due.
                () = start(self.waiting.next_start()), if self.has_free_slot() && self.has_room() => {}
                // A round trip delays `next_look`, so long waits are also checked here.
                () = start(pause_look) => self.give_back(),
                () = start(settle_at) => {}
                () = start(next_try) => {}
            }
        }
        self.count_busy();
        tracing::debug!(queue = %self.queue, "worker stopped");
        self.left_behind()
    }

    /// Applies the orchestrator's control: a lost lease or the deadline ends all handlers.
    fn heed_control(&mut self) {
        let (phase, holder) = {
            let control = self.control.borrow_and_update();
            (control.phase, control.holder())
        };
        let current = holder.filter(|id| self.over != Some(*id));
        let lost = current != self.orchestrator;
        if lost && self.orchestrator.is_some() {
            tracing::warn!(queue = %self.queue, running = self.running.len(), "lease in doubt; handlers are stopped");
        }
        if phase == Phase::Halting {
            self.halting_since.get_or_insert_with(Instant::now);
        }
        if lost || phase == Phase::Halting {
            self.abort_all();
        }
        if phase != Phase::Working {
            self.release_waiting();
            self.take_back(Duration::ZERO);
            self.waiting.lanes_mut().set_deep(false);
        }
        if lost {
            let before = std::mem::replace(&mut self.orchestrator, current);
            Arc::make_mut(&mut self.surroundings.durable).orchestrator = current;
            self.waiting.lanes_mut().forget();
            // Executions that end later held their slots under the old orchestrator id.
            for running in self.running.values_mut() {
                for member in &mut running.members {
                    member.lanes.clear();
                }
            }
            if current.is_none() {
                // The same lease may be held again, with slots and claims that are no longer known here.
                self.suspect = before.or(self.suspect);
            } else if self.suspect != current {
                // Under a new id: what the old one held has been given back.
                self.suspect = None;
            }
            self.look();
        }
    }

    /// Aborts all handlers. A handler that has already finished keeps its outcome; `ended` gives the others back when
    /// they have really stopped.
    fn abort_all(&mut self) {
        for running in self.running.values() {
            running.abort.now();
        }
        self.release_waiting();
    }

    fn release_waiting(&mut self) {
        let waiting = self.waiting.drain();
        self.release(waiting);
    }

    fn release(&mut self, claimed: Vec<Claimed>) {
        for claimed in claimed {
            let (id, claim, parent) = (claimed.id, claimed.claim, claimed.parent);
            self.keep(id, claim, parent, End::Released);
        }
    }

    /// Adds an end that must be written.
    fn keep(&mut self, id: Uuid, claim: Claim, parent: Option<Uuid>, end: End) {
        let outcome = Outcome::new(id, claim, parent, end, &self.unwritten);
        self.outcomes.push(outcome);
    }

    /// Returns whether handlers that have just been started or woken are about to end, in which case a trip that is
    /// sent now would lack their outcomes.
    fn wait_for_others(&mut self) -> bool {
        if self.barrier.as_ref().is_some_and(Barrier::is_over) || self.running.is_empty() {
            self.barrier = None;
        } else if std::mem::take(&mut self.stirred) && self.barrier.is_none() {
            self.barrier = Some(Barrier::behind(self.handlers.runtime()));
        }
        self.barrier.is_some()
    }

    /// Must be called when something may be due.
    fn look(&mut self) {
        self.idle = false;
        self.looks = 0;
    }

    fn tick(&mut self) {
        self.next_look = Instant::now() + POLL;
        self.idle = false;
        if self.refused_at.elapsed() >= REFUSED_AGAIN {
            self.outcomes.append(&mut self.refused);
        }
        if self.trips.is_empty() {
            self.spare.clear();
        }
        self.spare.retain(Session::is_young);
        self.give_back();
        self.look_for_threads();
        self.look_for_blocking();
    }

    /// Gives back what has waited long for a handler or a slot, so that others can run it.
    fn give_back(&mut self) {
        let nothing_starts = self.waiting.is_waiting() && self.last_start.elapsed() >= STALL;
        if nothing_starts || self.waiting.has_waited(STALL) {
            // The handlers have become slow; other workers may have free slots.
            self.pace.stalled();
            for pace in self.limited.values_mut() {
                pace.stalled();
            }
            // With a free handler and room, singles wait for a limit's slot, and batches only for time.
            let waiting = if self.has_free_slot() && self.has_room() {
                self.waiting.drain_singles()
            } else {
                self.waiting.drain()
            };
            self.release(waiting);
        }
        // Those of one limit, while others continue: in the database, their reason is visible.
        let blocked = self.waiting.drain_blocked(STALL);
        for claimed in &blocked {
            if let Some(pace) = self.limited.get_mut(&claimed.task_id) {
                pace.stalled();
            }
        }
        self.release(blocked);
    }

    fn cancelled(&mut self, cancelled: Result<Uuid, RecvError>) {
        match cancelled {
            Ok(id) => self.cancel(id),
            Err(RecvError::Lagged(_)) => self.conductor.notifier().ask_for_cancels(),
            Err(RecvError::Closed) => {}
        }
    }

    fn cancel(&mut self, id: Uuid) {
        let mut running = self.running.values().flat_map(|running| &running.members);
        if let Some(member) = running.find(|member| member.id == id) {
            member.cancel.cancel();
        } else if let Some(claimed) = self.waiting.remove(id) {
            // An execution that waits for a slot or a batch is given back, which ends it as cancelled.
            self.keep(id, claimed.claim, claimed.parent, End::Released);
        } else if self.asked > 0 {
            self.cancelled_early.insert(id);
        }
    }

    fn has_nothing(&self) -> bool {
        self.running.is_empty()
            && self.waiting.is_empty()
            && self.outcomes.is_empty()
            && self.locked.is_empty()
            && self.trips.is_empty()
    }

    fn is_over(&self) -> bool {
        let phase = self.control.borrow().phase;
        if phase == Phase::Working {
            return false;
        }
        // Other workers wait for its slots, while another queue of this process may take time to drain.
        let has_slots = self.orchestrator.is_some() && self.waiting.lanes().unsettled().is_some();
        if phase != Phase::Halting && has_slots {
            return false;
        }
        // A handler that never yields cannot be dropped; the process is about to end anyway.
        let stuck = self
            .halting_since
            .is_some_and(|since| since.elapsed() >= STUCK);
        (self.running.is_empty() || stuck)
            && self.waiting.is_empty()
            && self.outcomes.is_empty()
            && (self.locked.is_empty() || stuck)
            && self.trips.is_empty()
    }

    fn count_busy(&mut self) {
        let busy = !self.has_nothing();
        if busy != self.counted_busy {
            self.counted_busy = busy;
            self.busy
                .send_modify(|count| if busy { *count += 1 } else { *count -= 1 });
        }
    }
}
