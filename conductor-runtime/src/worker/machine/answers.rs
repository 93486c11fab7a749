//! What a worker makes of the answers of its round trips.

use std::time::Instant;

use conductor_postgres::Fault;
use conductor_postgres::store::Claimed;

use super::demand::{Demand, POLL};
use super::{Action, Machine};
use crate::worker::protocol::Exchanged;

impl Machine {
    pub(super) fn exchanged(&mut self, mut exchanged: Exchanged, now: Instant) {
        self.trips = self.trips.saturating_sub(1);
        let request = &exchanged.request;
        let current = self.orchestrator == Some(request.orchestrator);
        let told = !request.lanes.lanes.is_empty();
        self.claims.answered(request.want, told);
        if told && exchanged.fault.is_some() && current {
            self.waiting.lanes_mut().unsettle(now);
        }
        // Without a current id, the suspect one may be held again.
        if exchanged.suspect && (current || self.orchestrator.is_none()) {
            self.claims.suspected(Some(request.orchestrator));
        }
        self.delivery.returned(&mut exchanged, now);
        match exchanged.fault {
            None => {
                self.link.succeeded();
                self.accept(exchanged, current, now);
            }
            Some(Fault::LeaseLost) => {
                // Nothing can be claimed until the orchestrator has a new id.
                self.over = Some(exchanged.request.orchestrator);
                self.actions.push_back(Action::TellOfLostLease);
                self.accept(exchanged, current, now);
            }
            Some(Fault::Passing | Fault::Refused) => {
                self.demand = Demand::More;
                self.next_look = self.link.failed(now);
            }
        }
    }

    /// Takes over what an answer brought.
    fn accept(&mut self, exchanged: Exchanged, current: bool, now: Instant) {
        let Exchanged {
            request,
            claimed,
            slots,
            ..
        } = exchanged;
        let got = claimed.len();
        let bytes: usize = claimed.iter().map(Claimed::bytes).sum();
        if current {
            self.waiting.extend(claimed, now);
            if !request.lanes.lanes.is_empty() || !slots.is_empty() {
                self.waiting.granted(&request.lanes.back, slots, now);
            }
        } else {
            self.release(claimed);
        }
        if exchanged.paused {
            self.release_waiting(now);
        }
        if request.want == 0 {
            return;
        }
        let cancelled = std::mem::take(&mut self.cancelled_early);
        if !current {
            return;
        }
        self.scan.ended(exchanged.seen, got > 0);
        for id in cancelled {
            self.cancel(id, now);
        }
        // If the answer was large, what is left may not have fit into it.
        let more = got == request.want || bytes > request.bytes / 2;
        self.waiting.lanes_mut().set_deep(more, now);
        if got > 0 {
            self.demand.came(more);
        } else if let Some(pause) = self.demand.nothing_came(request.idle) {
            self.actions.push_back(Action::Rest);
            self.next_look = now + pause.min(exchanged.next_due.unwrap_or(POLL));
        }
    }
}
