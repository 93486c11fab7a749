mod trips;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backlog::{Backlog, Turn};
use super::batch::batch_attempt;
use super::config::Worker;
use super::control::{Control, Phase, Signals};
use super::execute::{Surroundings, attempt, panic_text};
use super::fetch::Claimed;
use super::flush::Returned;
use super::outcome::{End, Outcome};
use super::pace::Pace;
use super::window::Windows;
use crate::context::Durable;
use crate::error::Verdict;
use crate::task::{Runner, States, TaskDefinition};

/// The safety net under the notifications.
const POLL: Duration = Duration::from_secs(1);
/// When outcomes that were refused in every form are brought again.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// How long dropped handlers have to stop at the next `.await`.
const STUCK: Duration = Duration::from_secs(3);
/// After so long without a free slot, claims that wait for one are given back.
const STALL: Duration = Duration::from_millis(500);

/// One queue's worker at work.
pub(crate) struct Pipeline {
    pool: PgPool,
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
    /// How quick the tasks with limits are.
    limited: HashMap<i32, Pace>,
    waiting: Backlog,
    /// Cancelled while a claim was under way, which may be about to bring them.
    cancelled_early: HashSet<Uuid>,
    handlers: JoinSet<Ended>,
    running: HashMap<Id, Running>,
    outcomes: Vec<Outcome>,
    trips: JoinSet<Returned>,
    /// Claims that are asked for and not yet answered.
    asked: usize,
    /// The trip under way tells which slots are in use, so that no other may.
    settling: bool,
    /// The last claim brought all that it asked for, so there may be more.
    more: bool,
    /// The database knows that this worker wants to be woken.
    idle: bool,
    looks: usize,
    faults: usize,
    /// After a fault nothing is sent before this.
    patient_until: Instant,
    next_look: Instant,
    /// When to look whether the queue is paused, while claims wait for a handler.
    next_pause_look: Instant,
    last_start: Instant,
    /// The database may have claimed for this worker what it never heard of.
    /// The identity under which a claim may have committed without our knowing.
    suspect: Option<i64>,
    /// The trip under way gives such claims back, so no other may claim beside it.
    disowning: bool,
    /// Outcomes that the database refuses in every form, brought again from time to time.
    refused: Vec<Outcome>,
    refused_at: Instant,
    orchestrator: Option<i64>,
    /// An identity that the database no longer accepts.
    over: Option<i64>,
    lease_lost: Arc<Notify>,
    halting_since: Option<Instant>,
}

/// The time at which something may start; never, where nothing has one.
async fn start(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What a handler runs: one execution, or the items of a batch.
#[derive(Debug)]
struct Running {
    task: &'static str,
    task_id: i32,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    id: Uuid,
    claim: i32,
    parent: Option<Uuid>,
    lanes: Vec<i32>,
    cancel: CancellationToken,
}

impl Member {
    fn of(claimed: &Claimed) -> Self {
        Self {
            id: claimed.id,
            claim: claimed.claim,
            parent: claimed.parent,
            lanes: claimed.lanes.clone(),
            cancel: CancellationToken::new(),
        }
    }
}

/// How a handler ended.
enum Ended {
    /// No end where the claim was lost.
    Single(Option<End>, Duration),
    /// In the order of the members.
    Batch(Vec<End>),
}

/// One line a handler: a batch may have thousands of failures.
fn warn_of_failures(running: &Running, ends: &[Option<End>]) {
    let failures = running.members.iter().zip(ends);
    let mut failures = failures.filter_map(|(member, end)| match end {
        Some(End::Failed { error, verdict }) => Some((member, error, verdict)),
        _ => None,
    });
    if let Some((member, error, verdict)) = failures.next() {
        let (task, last) = (running.task, *verdict == Verdict::Permanent);
        match failures.count() {
            0 => {
                tracing::warn!(task, execution = %member.id, %error, permanent = last, "attempt failed");
            }
            more => {
                tracing::warn!(task, execution = %member.id, %error, permanent = last, more,
                    "attempts of a batch failed");
            }
        }
    }
}

impl Pipeline {
    pub(crate) fn new(
        durable: Durable,
        worker: &Worker,
        queue_id: i32,
        tasks: HashMap<i32, &'static TaskDefinition>,
        states: Arc<States>,
        signals: Signals,
    ) -> Self {
        let conductor = durable.conductor.clone();
        let now = Instant::now();
        let control = signals.control;
        let orchestrator = control.borrow().orchestrator;
        Self {
            pool: conductor.pool().clone(),
            queue: worker.queue.clone(),
            queue_id,
            concurrency: worker.concurrency,
            surroundings: Surroundings {
                states,
                windows: Windows::of(&tasks),
                durable,
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
            busy: signals.busy,
            counted_busy: false,
            pace: Pace::new(worker.concurrency),
            cancelled_early: HashSet::new(),
            handlers: JoinSet::new(),
            running: HashMap::new(),
            outcomes: Vec::new(),
            trips: JoinSet::new(),
            asked: 0,
            settling: false,
            more: true,
            idle: false,
            looks: 0,
            faults: 0,
            patient_until: now,
            next_look: now,
            next_pause_look: now,
            last_start: now,
            suspect: None,
            disowning: false,
            refused: Vec::new(),
            refused_at: now,
            orchestrator,
            over: None,
            lease_lost: signals.lease_lost,
            halting_since: None,
            control,
        }
    }

    /// Works until the orchestrator stops and everything that was claimed is written or released.
    pub(crate) async fn run(mut self) {
        loop {
            if self.pool.is_closed() {
                // The application has closed it; nothing can be written any more.
                return;
            }
            self.heed_control();
            self.start_handlers();
            self.send();
            self.count_busy();
            if self.is_over() {
                break;
            }
            let pause_look = self.pause_look();
            tokio::select! {
                changed = self.control.changed() => {
                    if changed.is_err() {
                        // The orchestrator is gone; its lease will run out.
                        return;
                    }
                }
                Some(returned) = self.trips.join_next() => self.received(returned),
                Some(ended) = self.handlers.join_next_with_id() => {
                    self.ended(ended);
                    while let Some(ended) = self.handlers.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                () = self.wake.notified() => {
                    self.next_pause_look = Instant::now();
                    self.look();
                }
                cancelled = self.cancels.recv() => self.cancelled(cancelled),
                () = tokio::time::sleep_until(self.next_look.into()) => self.tick(),
                // Without a free slot nothing starts, however long it has been due.
                () = start(self.waiting.next_start()), if self.has_free_slot() => {}
                () = start(pause_look) => {}
            }
        }
        self.count_busy();
        tracing::debug!(queue = %self.queue, "worker stopped");
    }

    /// Takes over what the orchestrator says: a lost lease or the deadline ends all handlers.
    fn heed_control(&mut self) {
        let control = *self.control.borrow_and_update();
        let current = control.orchestrator.filter(|id| self.over != Some(*id));
        let lost = current != self.orchestrator;
        if lost && self.orchestrator.is_some() {
            tracing::warn!(queue = %self.queue, running = self.running.len(), "lease in doubt; handlers are stopped");
        }
        if control.phase == Phase::Halting {
            self.halting_since.get_or_insert_with(Instant::now);
        }
        if lost || control.phase == Phase::Halting {
            self.abort_all();
        }
        if control.phase != Phase::Working {
            self.release_waiting();
        }
        if lost {
            self.orchestrator = current;
            self.waiting.forget_lanes();
            if current.is_some() && self.suspect != current {
                // Under another identity: what the old one held has been given back.
                self.suspect = None;
            }
            self.look();
        }
    }

    /// Drops all handlers. One that has finished meanwhile keeps its outcome; the others are given
    /// back when they have really stopped, which `ended` is told.
    fn abort_all(&mut self) {
        self.handlers.abort_all();
        self.release_waiting();
    }

    fn release_waiting(&mut self) {
        let waiting = self.waiting.drain();
        self.release(waiting);
    }

    fn release(&mut self, claimed: Vec<Claimed>) {
        for claimed in claimed {
            self.outcomes.push(Outcome {
                id: claimed.id,
                claim: claimed.claim,
                parent: claimed.parent,
                end: End::Released,
            });
        }
    }

    fn start_handlers(&mut self) {
        while self.has_free_slot() {
            let Some(turn) = self.waiting.next() else {
                return;
            };
            self.last_start = Instant::now();
            match turn {
                Turn::Single(claimed) => self.start_single(claimed),
                Turn::Batch(claimed) => self.start_batch(claimed),
            }
        }
    }

    fn has_free_slot(&self) -> bool {
        self.running.len() < self.concurrency
    }

    fn start_single(&mut self, claimed: Claimed) {
        let task_id = claimed.task_id;
        let task = self.tasks.get(&task_id).copied();
        let Some((task, Runner::Single(run))) = task.map(|task| (task, &task.runner)) else {
            // The claim names our tasks, so this is a claim of a task that we do not have.
            self.waiting.ended(&claimed.lanes);
            self.release(vec![claimed]);
            return;
        };
        let member = Member::of(&claimed);
        let surroundings = self.surroundings.clone();
        let attempt = attempt(task, *run, claimed, member.cancel.clone(), surroundings);
        let handle = self.handlers.spawn(async move {
            let (end, took) = attempt.await;
            Ended::Single(end, took)
        });
        let running = Running {
            task: task.name,
            task_id,
            members: vec![member],
        };
        self.running.insert(handle.id(), running);
    }

    fn start_batch(&mut self, claimed: Vec<Claimed>) {
        let of = claimed.first().and_then(|claimed| {
            let task = *self.tasks.get(&claimed.task_id)?;
            Some((claimed.task_id, task, task.batch()?))
        });
        let Some((task_id, task, batch)) = of else {
            self.release(claimed);
            return;
        };
        let members: Vec<Member> = claimed.iter().map(Member::of).collect();
        let cancels = members.iter().map(|member| member.cancel.clone()).collect();
        let attempt = batch_attempt(task, batch, claimed, cancels, self.surroundings.clone());
        let handle = self
            .handlers
            .spawn(async move { Ended::Batch(attempt.await) });
        let running = Running {
            task: task.name,
            task_id,
            members,
        };
        self.running.insert(handle.id(), running);
    }

    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let handler = match &ended {
            Ok((handler, _)) => *handler,
            Err(error) => error.id(),
        };
        let Some(running) = self.running.remove(&handler) else {
            return;
        };
        let ends = match ended {
            Ok((_, Ended::Single(end, took))) => {
                self.pace.measured(took);
                if let Some(pace) = self.limited.get_mut(&running.task_id) {
                    pace.measured(took);
                }
                vec![end]
            }
            // How long a batch takes says nothing of how many to claim ahead.
            Ok((_, Ended::Batch(ends))) => ends.into_iter().map(Some).collect(),
            Err(error) => {
                let end = match error.try_into_panic() {
                    Ok(panic) => End::failed(&panic_text(panic.as_ref())),
                    // Dropped by abort_all.
                    Err(_) => End::Released,
                };
                vec![Some(end); running.members.len()]
            }
        };
        warn_of_failures(&running, &ends);
        for (member, end) in running.members.into_iter().zip(ends) {
            self.ended_member(running.task, member, end);
        }
    }

    fn ended_member(&mut self, task: &'static str, member: Member, end: Option<End>) {
        self.waiting.ended(&member.lanes);
        let Some(end) = end else {
            tracing::warn!(task, execution = %member.id, claim = member.claim,
                "the claim was lost; the handler was dropped");
            // Its slot is free.
            self.look();
            return;
        };
        self.outcomes.push(Outcome {
            id: member.id,
            claim: member.claim,
            parent: member.parent,
            end,
        });
    }

    /// Something may be due.
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
        if self.waiting.is_waiting() && self.last_start.elapsed() >= STALL {
            // The handlers have become slow; other workers may have free slots.
            self.pace.stalled();
            for pace in self.limited.values_mut() {
                pace.stalled();
            }
            // With a free slot they wait for one of a limit, and batches for nothing but time.
            let waiting = if self.has_free_slot() {
                self.waiting.drain_singles()
            } else {
                self.waiting.drain()
            };
            self.release(waiting);
        }
    }

    fn cancelled(&mut self, cancelled: Result<Uuid, broadcast::error::RecvError>) {
        if let Ok(id) = cancelled {
            self.cancel(id);
        }
    }

    fn cancel(&mut self, id: Uuid) {
        let mut running = self.running.values().flat_map(|running| &running.members);
        if let Some(member) = running.find(|member| member.id == id) {
            member.cancel.cancel();
        } else if let Some(claimed) = self.waiting.remove(id) {
            // One that waits for a slot or a batch is given back, which ends it as cancelled.
            self.outcomes.push(Outcome {
                id,
                claim: claimed.claim,
                parent: claimed.parent,
                end: End::Released,
            });
        } else if self.asked > 0 {
            self.cancelled_early.insert(id);
        }
    }

    fn has_nothing(&self) -> bool {
        self.running.is_empty()
            && self.waiting.is_empty()
            && self.outcomes.is_empty()
            && self.trips.is_empty()
    }

    fn is_over(&self) -> bool {
        if self.control.borrow().phase == Phase::Working {
            return false;
        }
        // A handler that never yields cannot be dropped; the process is about to end with it.
        let stuck = self
            .halting_since
            .is_some_and(|since| since.elapsed() >= STUCK);
        (self.running.is_empty() || stuck)
            && self.waiting.is_empty()
            && self.outcomes.is_empty()
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
