//! What the orchestrator, callers and the time want of a worker.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::running::Running;
use super::{Action, Machine};
use crate::worker::control::Phase;
use crate::worker::outcome::End;

/// Claims that have waited this long for a handler or a slot are given back.
const STALL: Duration = Duration::from_millis(500);

impl Machine {
    /// Applies the orchestrator's control: a lost lease or the deadline ends all handlers.
    pub(super) fn control(&mut self, phase: Phase, holder: Option<i64>, now: Instant) {
        self.phase = phase;
        let current = holder.filter(|id| self.over != Some(*id));
        let lost = current != self.orchestrator;
        if lost && self.orchestrator.is_some() {
            let running = self.running.len();
            self.actions.push_back(Action::TellOfDoubt { running });
        }
        if phase == Phase::Halting {
            self.halting_since.get_or_insert(now);
        }
        if lost || phase == Phase::Halting {
            // A handler that has already finished keeps its outcome; the others are given back when they have really
            // stopped.
            if !self.running.is_empty() {
                self.actions.push_back(Action::AbortAll);
            }
            self.release_waiting(now);
        }
        if phase != Phase::Working {
            self.release_waiting(now);
            if !self.running.is_empty() {
                self.actions.push_back(Action::TakeBack);
            }
            self.waiting.lanes_mut().set_deep(false, now);
        }
        if lost {
            self.hold(current);
        }
    }

    /// Goes on under another orchestrator id, or waits for one.
    fn hold(&mut self, current: Option<i64>) {
        let before = std::mem::replace(&mut self.orchestrator, current);
        self.actions.push_back(Action::Serve(current));
        self.waiting.lanes_mut().forget();
        // Executions that end later held their slots under the old orchestrator id.
        for running in self.running.values_mut() {
            for member in &mut running.members {
                member.lanes.clear();
            }
        }
        match current {
            // The same lease may be held again, with slots and claims that are no longer known here.
            None => self.claims.suspected(before),
            Some(id) => self.claims.renewed(id),
        }
        self.demand.look();
    }

    /// Gives back what has waited long for a handler or a slot, so that others can run it.
    pub(super) fn give_back(&mut self, now: Instant) {
        let nothing_starts = self.waiting.is_waiting(now) && now >= self.last_start + STALL;
        if nothing_starts || self.waiting.has_waited(STALL, now) {
            // The handlers have become slow; other workers may have free slots.
            self.prefetch.stalled();
            for prefetch in self.limited.values_mut() {
                prefetch.stalled();
            }
            // With a free handler and room, singles wait for a limit's slot, and batches only for time.
            let waiting = if self.has_free_slot() && self.has_room() {
                self.waiting.drain_singles(now)
            } else {
                self.waiting.drain(now)
            };
            self.release(waiting);
        }
        // Those of one limit, while others continue: in the database, their reason is visible.
        let blocked = self.waiting.drain_blocked(STALL, now);
        for claimed in &blocked {
            if let Some(prefetch) = self.limited.get_mut(&claimed.task_id) {
                prefetch.stalled();
            }
        }
        self.release(blocked);
    }

    pub(super) fn cancel(&mut self, id: Uuid, now: Instant) {
        let runs_it = |running: &Running| running.members.iter().any(|one| one.id == id);
        let handler = self.running.iter().find(|(_, running)| runs_it(running));
        if let Some((handler, _)) = handler {
            self.actions.push_back(Action::Cancel(*handler, id));
        } else if let Some(claimed) = self.waiting.remove(id, now) {
            // An execution that waits for a slot or a batch is given back, which ends it as cancelled.
            let (claim, parent) = (claimed.claim, claimed.parent);
            self.delivery.keep(id, claim, parent, End::Released);
        } else if self.claims.is_claiming() {
            self.cancelled_early.insert(id);
        }
    }
}
