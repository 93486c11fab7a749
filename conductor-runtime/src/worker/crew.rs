//! The handlers of a worker as they really run: on the application's runtime, whose threads they may block.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use conductor_postgres::store::Claimed;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batch::batch_attempt;
use super::control::Control;
use super::execute::{AttemptEnv, attempt, while_held};
use super::handlers::{Abort, HandlerId, Handlers};
use super::left::Left;
use super::local_queue::Turn;
use super::machine::Ended;
use super::outcome::End;
use super::pulse::{Held, Pulse};
use crate::panics::Panicked;
use crate::task::{Runner, TaskDefinition};
use crate::verdict::Verdict;

/// A handler that has not yielded for this long and exceeds its timeout by as much is logged; without a timeout, after
/// the longer time.
const OVERTIME: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(10);
pub(super) const USE_INSTEAD: &str =
    "Code that blocks belongs into tokio::task::spawn_blocking, awaited in a step";

/// The running handlers.
pub(super) struct Crew {
    handlers: Handlers<Way>,
    running: HashMap<HandlerId, Running>,
    tasks: HashMap<i32, &'static TaskDefinition>,
    env: AttemptEnv,
    control: watch::Receiver<Control>,
    left: Left,
}

/// A running handler: of one execution, or of the items of a batch.
#[derive(Debug)]
struct Running {
    task: &'static str,
    timeout: Option<Duration>,
    members: Vec<Member>,
    pulse: Arc<Pulse>,
    abort: Abort,
    /// Whether the log has reported that it blocks its thread, and that it does so beyond its timeout.
    told: bool,
    told_overtime: bool,
}

#[derive(Debug)]
struct Member {
    id: Uuid,
    claim: i32,
    cancel: CancellationToken,
}

impl Member {
    fn of(claimed: &Claimed) -> Self {
        Self {
            id: claimed.id,
            claim: claimed.claim.number,
            cancel: CancellationToken::new(),
        }
    }
}

/// In which way a handler ended.
enum Way {
    /// No end if the claim was lost.
    Single(Option<End>, Duration),
    /// In the order of the members.
    Batch(Vec<End>),
    Panicked(Panicked),
    /// It was dropped because its lease was over.
    Dropped,
}

impl Crew {
    /// Creates a crew whose handlers run on the runtime in which this is called.
    pub(super) fn new(
        tasks: HashMap<i32, &'static TaskDefinition>,
        env: AttemptEnv,
        control: watch::Receiver<Control>,
    ) -> Self {
        Self {
            handlers: Handlers::on(Handle::current()),
            running: HashMap::new(),
            tasks,
            env,
            control,
            left: Left::default(),
        }
    }

    pub(super) fn runtime(&self) -> &Handle {
        self.handlers.runtime()
    }

    /// Runs what follows under this orchestrator id.
    pub(super) fn serve(&mut self, orchestrator: Option<i64>) {
        Arc::make_mut(&mut self.env.durable).orchestrator = orchestrator;
    }

    /// Adds a handler, which begins with the next [`begin`](Self::begin). Returns its end if this binary does not have
    /// its task.
    pub(super) fn add(&mut self, handler: HandlerId, turn: Turn) -> Option<Ended> {
        let members: Vec<Member> = turn.claimed().iter().map(Member::of).collect();
        let first = turn.claimed().first();
        let task = first
            .and_then(|first| self.tasks.get(&first.task_id))
            .copied();
        let pulse = Arc::new(Pulse::new());
        let orchestrator = self.env.durable.orchestrator;
        let lease = (self.control.clone(), orchestrator);
        let env = self.env.clone();
        match (turn, task.map(|task| (task, &task.runner))) {
            (Turn::Single(claimed), Some((task, Runner::Single(run)))) => {
                let cancel = members.first()?.cancel.clone();
                let attempt = attempt(task, *run, claimed, cancel, env);
                // Boxed because it is large and would be copied into each future around it.
                let attempt = while_held(lease, Arc::clone(&pulse), Box::pin(attempt));
                let way = async move {
                    match attempt.await {
                        None => Way::Dropped,
                        Some(Ok((end, took))) => Way::Single(end, took),
                        Some(Err(panic)) => Way::Panicked(panic),
                    }
                };
                self.run(handler, task, members, pulse, way);
                None
            }
            (Turn::Batch(claimed), Some((task, Runner::Batch(batch)))) => {
                let cancels = members.iter().map(|member| member.cancel.clone()).collect();
                let attempt = batch_attempt(task, batch, claimed, cancels, env);
                let attempt = while_held(lease, Arc::clone(&pulse), attempt);
                let way = async move {
                    match attempt.await {
                        None => Way::Dropped,
                        Some(Ok(ends)) => Way::Batch(ends),
                        Some(Err(panic)) => Way::Panicked(panic),
                    }
                };
                self.run(handler, task, members, pulse, way);
                None
            }
            // The claim names this binary's tasks, so this is unexpected; it is given back.
            _ => Some(Ended {
                handler,
                took: None,
                ends: vec![Some(End::Released); members.len()],
            }),
        }
    }

    fn run(
        &mut self,
        handler: HandlerId,
        task: &TaskDefinition,
        members: Vec<Member>,
        pulse: Arc<Pulse>,
        way: impl Future<Output = Way> + Send + 'static,
    ) {
        let abort = self.handlers.add(handler, way, Way::Panicked);
        let running = Running {
            task: task.name,
            timeout: task.timeout,
            members,
            pulse,
            abort,
            told: false,
            told_overtime: false,
        };
        self.running.insert(handler, running);
    }

    /// Begins the handlers that were added.
    pub(super) fn begin(&mut self) {
        self.handlers.start();
    }

    /// Waits until handlers have ended, and returns how; at least one.
    pub(super) async fn ended(&mut self) -> Vec<Ended> {
        let ended = self.handlers.ended().await;
        (ended.into_iter())
            .map(|(handler, way)| self.end(handler, way))
            .collect()
    }

    fn end(&mut self, handler: HandlerId, way: Option<Way>) -> Ended {
        let Some(running) = self.running.remove(&handler) else {
            // It was taken back before; now a thread is free again.
            return Ended {
                handler,
                took: None,
                ends: Vec::new(),
            };
        };
        let members = running.members.len();
        let (took, ends) = match way {
            Some(Way::Single(end, took)) => (Some(took), vec![end]),
            // The duration of a batch does not tell how many executions to claim ahead.
            Some(Way::Batch(ends)) => (None, ends.into_iter().map(Some).collect()),
            Some(Way::Panicked(panicked)) => (None, vec![Some(End::panicked(&panicked)); members]),
            // Its lease was over, or it was aborted.
            Some(Way::Dropped) | None => (None, vec![Some(End::Released); members]),
        };
        running.tell_of_failures(&ends);
        for (member, end) in running.members.iter().zip(&ends) {
            match end {
                None => {
                    tracing::warn!(task = running.task, execution = %member.id, claim = member.claim,
                        "the claim was lost; the handler was dropped");
                }
                Some(End::Unreadable(reason)) => self.left.tell(running.task, member.id, reason),
                Some(_) => {}
            }
        }
        Ended {
            handler,
            took,
            ends,
        }
    }

    /// Aborts all handlers at their next `.await`.
    pub(super) fn abort_all(&self) {
        for running in self.running.values() {
            running.abort.now();
        }
    }

    /// Tells a handler that this execution was cancelled.
    pub(super) fn cancel(&self, handler: HandlerId, id: Uuid) {
        let members = self.running.get(&handler).map(|running| &running.members);
        let mut members = members.into_iter().flatten();
        if let Some(member) = members.find(|member| member.id == id) {
            member.cancel.cancel();
        }
    }

    /// Takes back the handlers that have had no thread for this long. They will never begin.
    pub(super) fn take_back(&mut self, after: Duration) -> Vec<HandlerId> {
        let no_thread = (self.running).extract_if(|_, running| running.pulse.take_back(after));
        no_thread.map(|(handler, _)| handler).collect()
    }

    /// Logs, once each, handlers that block their thread.
    pub(super) fn tell_of_blocking(&mut self) {
        for running in self.running.values_mut() {
            running.tell_of_blocking();
        }
    }

    /// Returns how many run.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// Returns what still runs, for the case that it does not yield.
    pub(super) fn left_behind(&self) -> Vec<Held> {
        let running = self.running.values();
        running
            .map(|running| Held(Arc::downgrade(&running.pulse)))
            .collect()
    }
}

impl Running {
    /// Logs one line per handler, because a batch may have thousands of failures.
    fn tell_of_failures(&self, ends: &[Option<End>]) {
        let failures = self.members.iter().zip(ends);
        let mut failures = failures.filter_map(|(member, end)| match end {
            Some(End::Failed { error, verdict, .. }) => Some((member, error, verdict)),
            _ => None,
        });
        if let Some((member, error, verdict)) = failures.next() {
            let (task, last) = (self.task, *verdict == Verdict::Permanent);
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

    fn tell_of_blocking(&mut self) {
        let Some(blocks) = self.pulse.blocks().filter(|blocks| *blocks >= OVERTIME) else {
            return;
        };
        let elapsed = self.pulse.elapsed();
        let timeout = (self.timeout).filter(|timeout| elapsed >= *timeout + OVERTIME);
        let execution = self.members.first().map(|member| member.id);
        let (task, execution) = (self.task, execution.map(tracing::field::display));
        if let Some(timeout) = timeout.filter(|_| !self.told_overtime) {
            (self.told, self.told_overtime) = (true, true);
            tracing::warn!(task, execution, not_yielded_for = ?blocks, ?timeout,
                "a handler is past its timeout and does not yield: it blocks its thread, and has timed out \
                 when it yields. {USE_INSTEAD}");
        } else if !self.told && blocks >= LONG {
            self.told = true;
            tracing::warn!(task, execution, not_yielded_for = ?blocks,
                "a handler does not yield: it blocks its thread. {USE_INSTEAD}");
        }
    }
}
