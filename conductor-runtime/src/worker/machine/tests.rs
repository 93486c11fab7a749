#![allow(clippy::unwrap_used)]
//! What a worker does about lost answers, lease doubts, idling, pauses, rates and blocked threads, in microseconds.
//! The tests against Postgres show the same from outside.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use conductor_postgres::Fault;
use conductor_postgres::store::Claimed;
use uuid::Uuid;

use super::demand::POLL;
use super::{Action, Ended, Event, Machine};
use crate::worker::control::Phase;
use crate::worker::delivery::Tried;
use crate::worker::example;
use crate::worker::handlers::HandlerId;
use crate::worker::outcome::End;
use crate::worker::protocol::{Exchanged, Request};

const LEASE: i64 = 1;
const MS: Duration = Duration::from_millis(1);

/// A worker, the time, and what it did in the last step.
struct Bench {
    machine: Machine,
    now: Instant,
    phase: Phase,
    holder: Option<i64>,
    requests: Vec<Request>,
    tries: Vec<Vec<u128>>,
    started: Vec<(HandlerId, Vec<u128>)>,
    others: Vec<String>,
}

fn ids(claimed: &[Claimed]) -> Vec<u128> {
    claimed.iter().map(|one| one.id.as_u128()).collect()
}

impl Bench {
    /// A worker of this many slots that holds the lease; it has sent its first claim.
    fn new(concurrency: usize) -> Self {
        let now = Instant::now();
        let mut machine = Machine::new(1, concurrency, &HashMap::new(), now);
        // A task without a definition is a single one without a limit.
        machine.tasks = vec![1];
        let mut bench = Self {
            machine,
            now,
            phase: Phase::Working,
            holder: Some(LEASE),
            requests: Vec::new(),
            tries: Vec::new(),
            started: Vec::new(),
            others: Vec::new(),
        };
        bench.step();
        bench
    }

    /// Tells the control and does what is to be done; handlers settle at once.
    fn step(&mut self) {
        (self.requests, self.tries) = (Vec::new(), Vec::new());
        (self.started, self.others) = (Vec::new(), Vec::new());
        let (phase, holder) = (self.phase, self.holder);
        self.machine.on(Event::Control { phase, holder }, self.now);
        while let Some(action) = self.machine.next(self.now) {
            match action {
                Action::Exchange(request) => self.requests.push(request),
                Action::Try(outcomes, _) => {
                    let ids = outcomes.iter().map(|one| one.id.as_u128());
                    self.tries.push(ids.collect());
                }
                Action::Start(handler, turn) => {
                    self.started.push((handler, ids(turn.claimed())));
                }
                Action::AwaitSettling => self.machine.on(Event::Settled, self.now),
                other => self.others.push(format!("{other:?}")),
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.machine.on(event, self.now);
        self.step();
    }

    /// Lets the time pass until the worker wakes.
    fn sleep(&mut self) -> Duration {
        let wakes_at = self.machine.wakes_at();
        let slept = wakes_at.saturating_duration_since(self.now);
        self.now = self.now.max(wakes_at);
        self.tell(Event::Time);
        slept
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// The only request of the last step.
    fn request(&mut self) -> Request {
        assert_eq!(self.requests.len(), 1, "{:?}", self.requests);
        self.requests.remove(0)
    }

    fn answer(&mut self, request: Request, came: &[u128]) {
        let mut exchanged = Exchanged::of(request.claim, false);
        exchanged.claimed = came
            .iter()
            .map(|id| example::claimed(*id, 1, &[]))
            .collect();
        self.tell(Event::Exchanged(Box::new(exchanged)));
    }

    fn fail(&mut self, request: Request, fault: Fault, suspect: bool) {
        let exchanged = Exchanged::of(request.claim, suspect);
        let exchanged = exchanged.without(request.outcomes, fault);
        self.tell(Event::Exchanged(Box::new(exchanged)));
    }

    fn end(&mut self, handler: HandlerId, end: Option<End>) {
        self.tell(Event::Ended(Ended {
            handler,
            took: Some(MS),
            ends: vec![end],
        }));
    }

    fn complete(&mut self, handler: HandlerId) {
        self.end(handler, Some(End::Completed("null".to_owned())));
    }

    /// Becomes idle: claims return nothing.
    fn idle(&mut self) {
        loop {
            let request = self.request();
            let idle = request.claim.idle;
            self.answer(request, &[]);
            if idle {
                return;
            }
        }
    }
}

fn written(request: &Request) -> Vec<(u128, bool)> {
    let released = |end: &End| matches!(end, End::Released);
    (request.outcomes.iter())
        .map(|one| (one.id.as_u128(), released(&one.end)))
        .collect()
}

#[test]
fn it_claims_as_many_as_can_run_and_writes_what_ended_with_the_next_claim() {
    let mut bench = Bench::new(2);
    let request = bench.request();
    assert_eq!((request.claim.want, request.claim.idle), (2, false));
    bench.answer(request, &[1, 2]);
    let [(one, _), (two, _)] = bench.started[..] else {
        panic!("{:?}", bench.started);
    };
    assert!(bench.requests.is_empty());
    bench.complete(one);
    let request = bench.request();
    assert_eq!(written(&request), [(1, false)]);
    assert!(request.claim.want > 0);
    // Until that is answered, nothing else is sent.
    bench.complete(two);
    assert!(bench.requests.is_empty());
}

#[test]
fn an_idle_worker_looks_less_and_less_and_a_wake_up_makes_it_look_at_once() {
    let mut bench = Bench::new(1);
    bench.idle();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        pauses.push(bench.sleep().as_millis());
        let request = bench.request();
        assert!(request.claim.idle);
        bench.answer(request, &[]);
    }
    assert_eq!(pauses, [2, 10, 50, 200, 1000, 1000]);
    assert_eq!(bench.machine.wakes_at(), bench.now + POLL);
    bench.tell(Event::Woken);
    let request = bench.request();
    assert!(request.claim.idle);
}

#[test]
fn what_is_due_sooner_is_slept_until() {
    let mut bench = Bench::new(1);
    bench.idle();
    for _ in 0..5 {
        bench.sleep();
        let request = bench.request();
        let mut exchanged = Exchanged::of(request.claim, false);
        exchanged.next_due = Some(MS * 300);
        bench.tell(Event::Exchanged(Box::new(exchanged)));
    }
    assert_eq!(bench.sleep(), MS * 300);
}

#[test]
fn the_last_results_are_written_before_the_next_claim() {
    let mut bench = Bench::new(4);
    let request = bench.request();
    bench.answer(request, &[1]);
    let handler = bench.started[0].0;
    // Three slots are free.
    let request = bench.request();
    bench.answer(request, &[]);
    bench.complete(handler);
    let request = bench.request();
    assert_eq!(
        (request.claim.want, written(&request)),
        (0, vec![(1, false)])
    );
    bench.answer(request, &[]);
    assert!(bench.request().claim.want > 0);
}

#[test]
fn a_claim_whose_answer_is_lost_is_given_back_before_the_next_one() {
    let mut bench = Bench::new(2);
    let request = bench.request();
    bench.fail(request, Fault::Passing, true);
    assert!(bench.requests.is_empty());
    assert_eq!(bench.sleep(), MS * 50);
    let request = bench.request();
    assert_eq!(request.known.as_deref(), Some(&[][..]));
    assert_eq!((request.claim.fence, request.after_fault), (1, true));
    // If that is lost, too, it is given back once more, later.
    bench.fail(request, Fault::Passing, true);
    assert_eq!(bench.sleep(), MS * 250);
    let request = bench.request();
    assert_eq!((request.known.is_some(), request.claim.fence), (true, 2));
    bench.answer(request, &[1]);
    assert_eq!(bench.started.len(), 1);
    // What is known by then is not given back.
    let request = bench.request();
    assert!(request.known.is_none());
    bench.fail(request, Fault::Passing, true);
    bench.sleep();
    let known = bench.request().known.unwrap();
    assert_eq!(
        known,
        [(Uuid::from_u128(1), example::claimed(1, 1, &[]).claim)]
    );
}

#[test]
fn outcomes_of_a_failed_round_trip_are_sent_again_and_none_beside_it() {
    let mut bench = Bench::new(1);
    let request = bench.request();
    bench.answer(request, &[1]);
    let handler = bench.started[0].0;
    bench.complete(handler);
    let request = bench.request();
    bench.fail(request, Fault::Passing, false);
    bench.tell(Event::Woken);
    assert!(bench.requests.is_empty());
    bench.sleep();
    assert_eq!(written(&bench.request()), [(1, false)]);
}

#[test]
fn a_lease_in_doubt_stops_the_handlers_and_what_came_meanwhile_is_released() {
    let mut bench = Bench::new(4);
    let request = bench.request();
    bench.answer(request, &[1]);
    let handler = bench.started[0].0;
    let under_way = bench.request();
    bench.holder = None;
    bench.step();
    assert!(bench.others.iter().any(|one| one == "AbortAll"));
    assert!(
        bench
            .others
            .iter()
            .any(|one| one == "TellOfDoubt { running: 1 }")
    );
    // What the claim brings was claimed under the old id, and must not start.
    bench.answer(under_way, &[2]);
    assert!(bench.started.is_empty());
    let request = bench.request();
    assert_eq!(
        (written(&request), request.claim.want),
        (vec![(2, true)], 0)
    );
    bench.answer(request, &[]);
    bench.end(handler, Some(End::Released));
    let request = bench.request();
    assert_eq!(written(&request), [(1, true)]);
    bench.answer(request, &[]);
    // The same id again: the database may have given it more than is known here.
    bench.holder = Some(LEASE);
    bench.step();
    assert!(bench.request().known.is_some());
}

#[test]
fn a_new_id_has_nothing_in_doubt() {
    let mut bench = Bench::new(1);
    let request = bench.request();
    bench.fail(request, Fault::LeaseLost, false);
    assert!(bench.others.iter().any(|one| one == "TellOfLostLease"));
    // The orchestrator still says that it holds the old one.
    bench.step();
    assert!(bench.requests.is_empty());
    bench.holder = Some(LEASE + 1);
    bench.step();
    let request = bench.request();
    assert_eq!(request.claim.orchestrator, LEASE + 1);
    assert!(request.known.is_none());
}

#[test]
fn claims_that_have_not_started_go_back_when_the_queue_is_paused() {
    let mut bench = Bench::new(1);
    let request = bench.request();
    bench.answer(request, &[1, 2, 3]);
    assert_eq!(bench.started.len(), 1);
    // A worker that holds what has not started asks for a pause, at once and then twice a second.
    let request = bench.request();
    assert_eq!((request.claim.want, request.claim.paused), (0, true));
    bench.answer(request, &[]);
    bench.pass(MS * 499);
    bench.step();
    assert!(bench.requests.is_empty());
    // A wake-up may be about the pause.
    bench.tell(Event::Woken);
    let request = bench.request();
    assert!(request.claim.paused);
    let mut exchanged = Exchanged::of(request.claim, false);
    exchanged.paused = true;
    bench.tell(Event::Exchanged(Box::new(exchanged)));
    assert_eq!(written(&bench.request()), [(2, true), (3, true)]);
}

#[test]
fn a_handler_without_a_thread_goes_back_and_nothing_is_claimed_until_one_is_free() {
    let mut bench = Bench::new(2);
    let request = bench.request();
    bench.answer(request, &[1, 2]);
    let handlers: Vec<HandlerId> = bench.started.iter().map(|(id, _)| *id).collect();
    bench.tell(Event::TakenBack {
        handlers: handlers.clone(),
        starving: true,
    });
    let request = bench.request();
    assert_eq!((request.claim.want, request.outcomes.len()), (0, 2));
    bench.answer(request, &[]);
    bench.sleep();
    assert!(bench.requests.is_empty());
    for (handler, wants) in handlers.into_iter().zip([false, true]) {
        bench.tell(Event::Ended(Ended {
            handler,
            took: None,
            ends: Vec::new(),
        }));
        assert_eq!(!bench.requests.is_empty(), wants);
    }
}

#[test]
fn a_cancel_reaches_what_runs_what_waits_and_what_is_on_its_way() {
    let mut bench = Bench::new(2);
    let request = bench.request();
    bench.answer(request, &[1]);
    let handler = bench.started[0].0;
    bench.tell(Event::Cancelled(Uuid::from_u128(1)));
    let expected = format!("{:?}", Action::Cancel(handler, Uuid::from_u128(1)));
    assert_eq!(bench.others, [expected]);
    // On its way: the claim is sent and not answered.
    let mut bench = Bench::new(1);
    let request = bench.request();
    bench.tell(Event::Cancelled(Uuid::from_u128(2)));
    bench.answer(request, &[2]);
    assert_eq!(bench.started.len() + bench.requests.len(), 1);
}

#[test]
fn what_is_locked_is_sent_apart_and_others_do_not_wait_for_it() {
    let mut bench = Bench::new(2);
    let request = bench.request();
    bench.answer(request, &[1, 2]);
    let handlers: Vec<HandlerId> = bench.started.iter().map(|(id, _)| *id).collect();
    bench.complete(handlers[0]);
    let request = bench.request();
    let mut exchanged = Exchanged::of(request.claim, false);
    exchanged.locked = request.outcomes;
    bench.tell(Event::Exchanged(Box::new(exchanged)));
    assert_eq!(bench.tries, [[1]]);
    let claim = bench.request();
    bench.answer(claim, &[]);
    bench.complete(handlers[1]);
    assert_eq!(written(&bench.request()), [(2, false)]);
    bench.tell(Event::Tried(Tried::Written));
    assert!(!bench.machine.delivery.has_locked());
}

#[test]
fn a_stopping_worker_claims_nothing_and_is_over_when_all_is_written() {
    let mut bench = Bench::new(1);
    let request = bench.request();
    bench.answer(request, &[1]);
    let handler = bench.started[0].0;
    bench.phase = Phase::Stopping;
    bench.step();
    assert!(bench.requests.is_empty());
    assert!(!bench.machine.is_over(bench.now));
    bench.complete(handler);
    let request = bench.request();
    assert_eq!((request.claim.want, request.outcomes.len()), (0, 1));
    assert!(!bench.machine.is_over(bench.now));
    bench.answer(request, &[]);
    assert!(bench.machine.is_over(bench.now));
}

#[test]
fn a_halting_worker_does_not_wait_for_a_handler_that_never_yields() {
    let mut bench = Bench::new(1);
    let request = bench.request();
    bench.answer(request, &[1]);
    bench.phase = Phase::Halting;
    bench.step();
    assert!(bench.others.iter().any(|one| one == "AbortAll"));
    assert!(!bench.machine.is_over(bench.now));
    bench.pass(Duration::from_secs(3));
    assert!(bench.machine.is_over(bench.now));
}

#[test]
fn what_waits_long_for_a_handler_goes_back_to_others() {
    let mut bench = Bench::new(1);
    let request = bench.request();
    // A worker that has measured nothing claims one; the database may return more for a batch.
    bench.answer(request, &[1, 2]);
    assert_eq!(bench.started.len(), 1);
    let request = bench.request();
    bench.answer(request, &[]);
    bench.pass(MS * 499);
    bench.tell(Event::Time);
    assert!(bench.requests.is_empty());
    bench.pass(MS);
    bench.tell(Event::Time);
    assert_eq!(written(&bench.request()), [(2, true)]);
}

#[test]
fn a_rate_starts_what_it_holds_back_at_its_time() {
    let mut bench = Bench::new(4);
    let request = bench.request();
    let mut exchanged = Exchanged::of(request.claim, false);
    let mut later = example::claimed(1, 1, &[]);
    later.start_at = Some(bench.now + MS * 30);
    exchanged.claimed = vec![later];
    bench.tell(Event::Exchanged(Box::new(exchanged)));
    assert!(bench.started.is_empty());
    let request = bench.request();
    bench.answer(request, &[]);
    let mut slept = Duration::ZERO;
    while bench.started.is_empty() {
        slept += bench.sleep();
        for request in std::mem::take(&mut bench.requests) {
            let started = std::mem::take(&mut bench.started);
            bench.answer(request, &[]);
            bench.started.extend(started);
        }
    }
    assert_eq!(slept, MS * 30);
}
