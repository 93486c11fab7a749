//! The running handlers: how they start, and how their ends are processed.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{MOST_BYTES, Pipeline};
use crate::panics::Panicked;
use crate::task::{Runner, TaskDefinition};
use crate::verdict::Verdict;
use crate::worker::backlog::Turn;
use crate::worker::batch::batch_attempt;
use crate::worker::claim::Claim;
use crate::worker::execute::{attempt, while_held};
use crate::worker::fetch::Claimed;
use crate::worker::handlers::{Abort, HandlerId};
use crate::worker::outcome::End;
use crate::worker::pulse::{Held, Pulse};

/// A handler that has had no thread for this long is given back.
const NO_THREAD: Duration = Duration::from_secs(2);
/// A handler that has not yielded for this long and exceeds its timeout by as much is logged; without a timeout,
/// after the longer time.
const OVERTIME: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(10);
const USE_INSTEAD: &str =
    "Code that blocks belongs into tokio::task::spawn_blocking, awaited in a step";

/// A running handler: of one execution, or of the items of a batch.
#[derive(Debug)]
pub(super) struct Running {
    task: &'static str,
    task_id: i32,
    timeout: Option<Duration>,
    pub(super) members: Vec<Member>,
    pulse: Arc<Pulse>,
    pub(super) abort: Abort,
    /// Whether the log has reported that it blocks its thread, and that it does so beyond its timeout.
    told: bool,
    told_overtime: bool,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) claim: Claim,
    parent: Option<Uuid>,
    pub(super) lanes: Vec<i32>,
    pub(super) cancel: CancellationToken,
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
pub(super) enum Ended {
    /// No end if the claim was lost.
    Single(Option<End>, Duration),
    /// In the order of the members.
    Batch(Vec<End>),
    /// It panicked.
    Panicked(Panicked),
    /// It was dropped because its lease was over.
    Dropped,
}

/// Logs one line per handler, because a batch may have thousands of failures.
fn warn_of_failures(running: &Running, ends: &[Option<End>]) {
    let failures = running.members.iter().zip(ends);
    let mut failures = failures.filter_map(|(member, end)| match end {
        Some(End::Failed { error, verdict, .. }) => Some((member, error, verdict)),
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
    pub(super) fn start_handlers(&mut self) {
        while self.has_free_slot() && self.has_room() {
            let Some(turn) = self.waiting.next() else {
                break;
            };
            self.last_start = Instant::now();
            match turn {
                Turn::Single(claimed) => self.start_single(claimed),
                Turn::Batch(claimed) => self.start_batch(claimed),
            }
        }
        self.handlers.start();
    }

    /// Returns whether the outcomes that wait to be written leave room for more.
    pub(super) fn has_room(&self) -> bool {
        self.unwritten.bytes() < MOST_BYTES
    }

    pub(super) fn has_free_slot(&self) -> bool {
        self.running.len() < self.concurrency
    }

    fn start_single(&mut self, claimed: Claimed) {
        let task_id = claimed.task_id;
        let task = self.tasks.get(&task_id).copied();
        let Some((task, Runner::Single(run))) = task.map(|task| (task, &task.runner)) else {
            // The claim names this binary's tasks, so an unknown task is unexpected; it is given back.
            self.waiting.ended(&claimed.lanes);
            self.release(vec![claimed]);
            return;
        };
        let member = Member::of(&claimed);
        let surroundings = self.surroundings.clone();
        let lease = (self.control.clone(), self.orchestrator);
        let attempt = attempt(task, *run, claimed, member.cancel.clone(), surroundings);
        // Boxed because it is large and would be copied into each future around it.
        let attempt = Box::pin(attempt);
        let pulse = Arc::new(Pulse::new());
        let attempt = while_held(lease, Arc::clone(&pulse), attempt);
        let handler = async move {
            match attempt.await {
                None => Ended::Dropped,
                Some(Ok((end, took))) => Ended::Single(end, took),
                Some(Err(panic)) => Ended::Panicked(panic),
            }
        };
        self.begin(task, task_id, vec![member], pulse, handler);
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
        let lease = (self.control.clone(), self.orchestrator);
        let attempt = batch_attempt(task, batch, claimed, cancels, self.surroundings.clone());
        let pulse = Arc::new(Pulse::new());
        let attempt = while_held(lease, Arc::clone(&pulse), attempt);
        let handler = async move {
            match attempt.await {
                None => Ended::Dropped,
                Some(Ok(ends)) => Ended::Batch(ends),
                Some(Err(panic)) => Ended::Panicked(panic),
            }
        };
        self.begin(task, task_id, members, pulse, handler);
    }

    fn begin(
        &mut self,
        task: &TaskDefinition,
        task_id: i32,
        members: Vec<Member>,
        pulse: Arc<Pulse>,
        handler: impl Future<Output = Ended> + Send + 'static,
    ) {
        let (handler, abort) = self.handlers.add(handler, Ended::Panicked);
        let running = Running {
            task: task.name,
            task_id,
            timeout: task.timeout,
            members,
            pulse,
            abort,
            told: false,
            told_overtime: false,
        };
        self.running.insert(handler, running);
        self.stirred = true;
    }

    /// Gives back handlers that have had no thread for this long, and returns their number. Nothing more is claimed
    /// until their async tasks have ended.
    pub(super) fn take_back(&mut self, after: Duration) -> usize {
        let no_thread = (self.running).extract_if(|_, running| running.pulse.take_back(after));
        let taken: Vec<Running> = no_thread.map(|(_, running)| running).collect();
        let handlers = taken.len();
        self.taken_back += handlers;
        for running in taken {
            for member in running.members {
                self.ended_member(running.task, member, Some(End::Released));
            }
        }
        handlers
    }

    pub(super) fn look_for_threads(&mut self) {
        let handlers = self.take_back(NO_THREAD);
        if handlers > 0 {
            tracing::warn!(queue = %self.queue, handlers, running = self.running.len(),
                "no thread is free for handlers that are to start, as others block them; they are given back, \
                 and nothing is claimed until a thread is free. {USE_INSTEAD}");
            self.release_waiting();
        }
    }

    pub(super) fn left_behind(&self) -> Vec<Held> {
        let running = self.running.values();
        running
            .map(|running| Held(Arc::downgrade(&running.pulse)))
            .collect()
    }

    /// Logs, once each, handlers that block their thread.
    pub(super) fn look_for_blocking(&mut self) {
        for running in self.running.values_mut() {
            let Some(blocks) = running.pulse.blocks().filter(|blocks| *blocks >= OVERTIME) else {
                continue;
            };
            let elapsed = running.pulse.elapsed();
            let timeout = (running.timeout).filter(|timeout| elapsed >= *timeout + OVERTIME);
            let execution = running.members.first().map(|member| member.id);
            let (task, execution) = (running.task, execution.map(tracing::field::display));
            if let Some(timeout) = timeout.filter(|_| !running.told_overtime) {
                (running.told, running.told_overtime) = (true, true);
                tracing::warn!(task, execution, not_yielded_for = ?blocks, ?timeout,
                    "a handler is past its timeout and does not yield: it blocks its thread, and has timed out \
                     when it yields. {USE_INSTEAD}");
            } else if !running.told && blocks >= LONG {
                running.told = true;
                tracing::warn!(task, execution, not_yielded_for = ?blocks,
                    "a handler does not yield: it blocks its thread. {USE_INSTEAD}");
            }
        }
    }

    pub(super) fn ended(&mut self, handler: HandlerId, ended: Option<Ended>) {
        let Some(running) = self.running.remove(&handler) else {
            // It was taken back before; now a thread is free again.
            self.taken_back = self.taken_back.saturating_sub(1);
            self.more = true;
            self.look();
            return;
        };
        let ends = match ended {
            Some(Ended::Single(end, took)) => {
                self.pace.measured(took);
                if let Some(pace) = self.limited.get_mut(&running.task_id) {
                    pace.measured(took);
                }
                vec![end]
            }
            // The duration of a batch does not tell how many executions to claim ahead.
            Some(Ended::Batch(ends)) => ends.into_iter().map(Some).collect(),
            Some(Ended::Panicked(panicked)) => {
                vec![Some(End::panicked(&panicked)); running.members.len()]
            }
            // Its lease was over, or it was aborted.
            Some(Ended::Dropped) | None => vec![Some(End::Released); running.members.len()],
        };
        warn_of_failures(&running, &ends);
        for (member, end) in running.members.into_iter().zip(ends) {
            self.ended_member(running.task, member, end);
        }
    }

    fn ended_member(&mut self, task: &'static str, member: Member, end: Option<End>) {
        self.stirred = true;
        self.waiting.ended(&member.lanes);
        let Some(end) = end else {
            tracing::warn!(task, execution = %member.id, claim = member.claim.number,
                "the claim was lost; the handler was dropped");
            // Its slot is free.
            self.look();
            return;
        };
        if let End::Unreadable(reason) = &end {
            self.left.tell(task, member.id, reason);
        }
        self.keep(member.id, member.claim, member.parent, end);
    }
}
