//! What a worker knows, and what it decides: events and the time in, actions out. It does nothing itself and has no
//! clock, so every order of events can be tested.

mod answers;
mod claims;
mod control;
mod demand;
mod handlers;
mod link;
mod requests;
mod running;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use conductor_postgres::store::{ClaimRequest, Claimed};
use uuid::Uuid;

use self::claims::Claims;
use self::demand::{Demand, POLL};
use self::link::Link;
pub(super) use self::requests::MOST_TRIPS;
use self::running::Running;
use self::scan::Scan;
use super::control::Phase;
use super::delivery::{Delivery, Tried};
use super::handlers::HandlerId;
use super::local_queue::{LocalQueue, Turn};
use super::outcome::{End, Outcome};
use super::prefetch::Prefetch;
use super::protocol::{Exchanged, Request};
use crate::task::TaskDefinition;

/// How long aborted handlers may take to reach their next `.await`.
const STUCK: Duration = Duration::from_secs(3);

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Event {
    /// What the orchestrator wants; told before each step. `holder` is its id while its lease is certain.
    Control { phase: Phase, holder: Option<i64> },
    /// A round trip is over.
    Exchanged(Box<Exchanged>),
    /// A round trip panicked. Its outcomes are lost here; the executions are recovered after the lease.
    ExchangeLost,
    /// Locked outcomes were sent.
    Tried(Tried),
    /// A handler has ended.
    Ended(Ended),
    /// Handlers had no thread and will never begin; `starving` if others block the threads.
    TakenBack {
        handlers: Vec<HandlerId>,
        starving: bool,
    },
    /// What was begun just now has come as far as it does at once.
    Settled,
    /// The database has something for this queue, or its state has changed.
    Woken,
    /// This execution was cancelled.
    Cancelled(Uuid),
    /// Time has passed.
    Time,
}

/// How a handler has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) handler: HandlerId,
    /// How long it took; `None` for a batch or a panic, which tell nothing about the next ones.
    pub(super) took: Option<Duration>,
    /// One for each execution in their order: no end if its claim was lost. Empty for a handler that was taken back.
    pub(super) ends: Vec<Option<End>>,
}

/// What a worker does.
#[derive(Debug)]
pub(super) enum Action {
    /// Run what follows under this orchestrator id.
    Serve(Option<i64>),
    /// Log that the lease is in doubt and this many handlers are stopped.
    TellOfDoubt { running: usize },
    /// Tell the orchestrator that its lease is over.
    TellOfLostLease,
    /// Start a handler.
    Start(HandlerId, Turn),
    /// Abort all handlers at their next `.await`.
    AbortAll,
    /// Take back the handlers that have not begun.
    TakeBack,
    /// Tell a handler that this execution was cancelled.
    Cancel(HandlerId, Uuid),
    /// Tell when what was begun has come as far as it does at once, with [`Event::Settled`].
    AwaitSettling,
    /// Make a round trip.
    Exchange(Request),
    /// Send outcomes of one execution that is locked.
    Try(Vec<Outcome>, ClaimRequest),
    /// Look for handlers that block their thread, and for sessions that are too old.
    Inspect,
    /// Give the sessions back, as nothing is due.
    Rest,
}

/// Whether the outcomes of what was begun just now are awaited before a round trip, so that they go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settling {
    No,
    Awaited,
    /// They are there: one step may send.
    Over,
}

/// The state of a worker.
#[derive(Debug)]
pub(super) struct Machine {
    queue: i32,
    concurrency: usize,
    tasks: Vec<i32>,
    phase: Phase,
    /// Since when handlers are dropped because the deadline is over.
    halting_since: Option<Instant>,
    /// The id under which it claims; `None` while the lease is in doubt.
    orchestrator: Option<i64>,
    /// An orchestrator id that the database no longer accepts.
    over: Option<i64>,

    demand: Demand,
    claims: Claims,
    link: Link,
    scan: Scan,
    prefetch: Prefetch,
    /// How far ahead tasks with limits are claimed.
    limited: HashMap<i32, Prefetch>,

    /// What was claimed and has not started.
    waiting: LocalQueue,
    /// Ids that were cancelled while a claim was under way, which may return them.
    cancelled_early: HashSet<Uuid>,
    running: HashMap<HandlerId, Running>,
    last_handler: u64,
    last_start: Instant,
    /// Handlers that were taken back because no thread was free, and whose async tasks have not ended yet.
    taken_back: usize,
    /// What has ended and is not known to be written.
    delivery: Delivery,
    /// How many round trips are under way.
    trips: usize,
    settling: Settling,
    /// Set when a handler starts or ends.
    stirred: bool,

    next_look: Instant,
    /// When to ask whether the queue is paused, while claims wait for a handler.
    next_pause_look: Instant,
    actions: VecDeque<Action>,
}

impl Machine {
    pub(super) fn new(
        queue: i32,
        concurrency: usize,
        tasks: &HashMap<i32, &'static TaskDefinition>,
        now: Instant,
    ) -> Self {
        let limited = tasks.iter().filter(|(_, task)| !task.limits.is_empty());
        Self {
            queue,
            concurrency,
            phase: Phase::Working,
            halting_since: None,
            orchestrator: None,
            over: None,
            demand: Demand::More,
            claims: Claims::new(),
            link: Link::Fine,
            scan: Scan::new(now),
            prefetch: Prefetch::new(concurrency),
            limited: limited.map(|(id, _)| (*id, Prefetch::new(1))).collect(),
            waiting: LocalQueue::of(tasks),
            tasks: tasks.keys().copied().collect(),
            cancelled_early: HashSet::new(),
            running: HashMap::new(),
            last_handler: 0,
            last_start: now,
            taken_back: 0,
            delivery: Delivery::new(now),
            trips: 0,
            settling: Settling::No,
            stirred: false,
            next_look: now,
            next_pause_look: now,
            actions: VecDeque::new(),
        }
    }

    /// Learns what has happened.
    pub(super) fn on(&mut self, event: Event, now: Instant) {
        match event {
            Event::Control { phase, holder } => self.control(phase, holder, now),
            Event::Exchanged(exchanged) => self.exchanged(*exchanged, now),
            Event::ExchangeLost => {
                self.trips = self.trips.saturating_sub(1);
                self.claims.lost(self.orchestrator);
                self.waiting.lanes_mut().unsettle(now);
            }
            Event::Tried(tried) => self.delivery.tried(tried, now),
            Event::Ended(ended) => self.ended(ended, now),
            Event::TakenBack { handlers, starving } => self.taken_back(handlers, starving, now),
            Event::Settled if self.settling == Settling::Awaited => self.settling = Settling::Over,
            Event::Settled => {}
            Event::Woken => {
                self.scan.woken();
                self.next_pause_look = now;
                self.demand.look();
            }
            Event::Cancelled(id) => self.cancel(id, now),
            Event::Time if self.next_look <= now => self.tick(now),
            Event::Time if self.pause_look().is_some_and(|at| at <= now) => self.give_back(now),
            Event::Time => {}
        }
    }

    /// Returns what to do next, until there is nothing more to do.
    pub(super) fn next(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some((handler, turn)) = self.next_start(now) {
            return Some(Action::Start(handler, turn));
        }
        if self.awaits_settling() {
            if std::mem::take(&mut self.stirred) && self.settling == Settling::No {
                self.settling = Settling::Awaited;
                return Some(Action::AwaitSettling);
            }
        } else if let Some(request) = self.next_request(now) {
            return Some(Action::Exchange(request));
        }
        if let Some((outcomes, request)) = self.next_try(now) {
            return Some(Action::Try(outcomes, request));
        }
        if self.settling == Settling::Over {
            self.settling = Settling::No;
        }
        None
    }

    /// Returns whether handlers that have just been started or woken are about to end, in which case a round trip that
    /// is sent now would lack their outcomes.
    fn awaits_settling(&mut self) -> bool {
        if self.running.is_empty() {
            self.settling = Settling::No;
            return false;
        }
        match self.settling {
            Settling::No => self.stirred,
            Settling::Awaited => true,
            Settling::Over => false,
        }
    }

    /// Returns when [`Event::Time`] is to be told.
    pub(super) fn wakes_at(&self) -> Instant {
        // Without a free slot and room for its outcome, nothing can start, however long it has been due.
        let can_start = self.has_free_slot() && self.has_room();
        let start = self.waiting.next_start().filter(|_| can_start);
        let next_try = self.delivery.next_try().map(|at| self.link.not_before(at));
        // A round trip delays `next_look`, so long waits are also looked at when a pause is asked for.
        let (pause, settle) = match self.settling {
            Settling::Awaited => (None, None),
            Settling::No | Settling::Over => (self.pause_look(), self.settle_at()),
        };
        let times = [start, next_try, pause, settle];
        times
            .into_iter()
            .flatten()
            .fold(self.next_look, Instant::min)
    }

    fn tick(&mut self, now: Instant) {
        self.next_look = now + POLL;
        self.demand.look_again();
        self.delivery.tick(now);
        self.give_back(now);
        self.actions.push_back(Action::Inspect);
    }

    /// Returns whether it is at work on nothing.
    pub(super) fn has_nothing(&self) -> bool {
        self.running.is_empty()
            && self.waiting.is_empty()
            && self.delivery.ready().is_empty()
            && !self.delivery.has_locked()
            && self.trips == 0
    }

    /// Returns whether the orchestrator stops, and everything that was claimed is written or released.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        if self.phase == Phase::Working {
            return false;
        }
        // Other workers wait for its slots, while another queue of this process may take time to drain.
        let has_slots = self.orchestrator.is_some() && self.waiting.lanes().unsettled().is_some();
        if self.phase != Phase::Halting && has_slots {
            return false;
        }
        // A handler that never yields cannot be dropped; the process is about to end anyway.
        let stuck = (self.halting_since).is_some_and(|since| now >= since + STUCK);
        (self.running.is_empty() || stuck)
            && self.waiting.is_empty()
            && self.delivery.ready().is_empty()
            && (!self.delivery.has_locked() || stuck)
            && self.trips == 0
    }

    /// Gives back claims that have not started.
    fn release(&mut self, claimed: Vec<Claimed>) {
        for claimed in claimed {
            let (id, claim, parent) = (claimed.id, claimed.claim, claimed.parent);
            self.delivery.keep(id, claim, parent, End::Released);
        }
    }

    fn release_waiting(&mut self, now: Instant) {
        let waiting = self.waiting.drain(now);
        self.release(waiting);
    }
}
