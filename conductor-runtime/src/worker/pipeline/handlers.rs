//! The handlers that run: how they start, and what comes of their ends.

use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{MOST_BYTES, Pipeline};
use crate::error::Verdict;
use crate::task::Runner;
use crate::worker::backlog::Turn;
use crate::worker::batch::batch_attempt;
use crate::worker::execute::{attempt, panic_text, while_held};
use crate::worker::fetch::Claimed;
use crate::worker::outcome::End;

/// What a handler runs: one execution, or the items of a batch.
#[derive(Debug)]
pub(super) struct Running {
    task: &'static str,
    task_id: i32,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Uuid,
    pub(super) claim: i32,
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
    /// No end where the claim was lost.
    Single(Option<End>, Duration),
    /// In the order of the members.
    Batch(Vec<End>),
    /// Dropped, as its lease was over.
    Dropped,
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
    pub(super) fn start_handlers(&mut self) {
        while self.has_free_slot() && self.has_room() {
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

    /// Whether what waits to be written leaves room for more.
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
            // The claim names our tasks, so this is a claim of a task that we do not have.
            self.waiting.ended(&claimed.lanes);
            self.release(vec![claimed]);
            return;
        };
        let member = Member::of(&claimed);
        let surroundings = self.surroundings.clone();
        let lease = (self.control.clone(), self.orchestrator);
        let attempt = attempt(task, *run, claimed, member.cancel.clone(), surroundings);
        let handle = self.handlers.spawn(async move {
            match while_held(lease, attempt).await {
                Some((end, took)) => Ended::Single(end, took),
                None => Ended::Dropped,
            }
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
        let lease = (self.control.clone(), self.orchestrator);
        let attempt = batch_attempt(task, batch, claimed, cancels, self.surroundings.clone());
        let handle = self.handlers.spawn(async move {
            match while_held(lease, attempt).await {
                Some(ends) => Ended::Batch(ends),
                None => Ended::Dropped,
            }
        });
        let running = Running {
            task: task.name,
            task_id,
            members,
        };
        self.running.insert(handle.id(), running);
    }

    pub(super) fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
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
            Ok((_, Ended::Dropped)) => vec![Some(End::Released); running.members.len()],
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
        if let End::Unreadable(reason) = &end {
            self.left.tell(task, member.id, reason);
        }
        self.keep(member.id, member.claim, member.parent, end);
    }
}
