//! The running handlers: which start, and how their ends are processed.

use std::time::Instant;

use super::running::{MOST_BYTES, Member, Running};
use super::{Ended, Machine};
use crate::worker::handlers::HandlerId;
use crate::worker::local_queue::Turn;
use crate::worker::outcome::End;

impl Machine {
    /// Returns what starts next, if there is a free handler and room for its outcome.
    pub(super) fn next_start(&mut self, now: Instant) -> Option<(HandlerId, Turn)> {
        if !self.has_free_slot() || !self.has_room() {
            return None;
        }
        let turn = self.waiting.next(now)?;
        let running = Running::of(turn.claimed())?;
        self.last_start = now;
        self.last_handler += 1;
        let handler = HandlerId(self.last_handler);
        self.running.insert(handler, running);
        self.stirred = true;
        Some((handler, turn))
    }

    /// Returns whether the outcomes that wait to be written leave room for more.
    pub(super) fn has_room(&self) -> bool {
        self.delivery.bytes() < MOST_BYTES
    }

    pub(super) fn has_free_slot(&self) -> bool {
        self.running.len() < self.concurrency
    }

    pub(super) fn ended(&mut self, ended: Ended, now: Instant) {
        let Some(running) = self.running.remove(&ended.handler) else {
            // It was taken back before; now a thread is free again.
            self.taken_back = self.taken_back.saturating_sub(1);
            self.demand.came(true);
            return;
        };
        if let Some(took) = ended.took {
            self.prefetch.measured(took);
            if let Some(prefetch) = self.limited.get_mut(&running.task_id) {
                prefetch.measured(took);
            }
        }
        for (member, end) in running.members.into_iter().zip(ended.ends) {
            self.ended_member(member, end, now);
        }
    }

    /// Gives back handlers that have had no thread. Nothing more is claimed until their async tasks have ended.
    pub(super) fn taken_back(&mut self, handlers: Vec<HandlerId>, starving: bool, now: Instant) {
        for handler in handlers {
            if let Some(running) = self.running.remove(&handler) {
                self.taken_back += 1;
                for member in running.members {
                    self.ended_member(member, Some(End::Released), now);
                }
            }
        }
        if starving {
            self.release_waiting(now);
        }
    }

    fn ended_member(&mut self, member: Member, end: Option<End>, now: Instant) {
        self.stirred = true;
        self.waiting.ended(&member.lanes, now);
        match end {
            Some(end) => (self.delivery).keep(member.id, member.claim, member.parent, end),
            // The claim was lost, and its slot is free.
            None => self.demand.look(),
        }
    }
}
