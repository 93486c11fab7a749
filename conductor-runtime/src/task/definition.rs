use std::any::{TypeId, type_name};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::output::encode_output;
use super::{
    BatchDefinition, BatchHandler, CronDefinition, Handler, Keep, LimitDefinition, Place,
    RetryPolicy, State, Task, WindowDefinition,
};
use crate::codec;
use crate::context::TaskContext;
use crate::event::SubscriptionDefinition;
use crate::row::RowTriggerDefinition;
use crate::unreadable::read;

/// A running attempt, whose output is encoded.
pub type ErasedFuture<'a> = Pin<Box<dyn Future<Output = anyhow::Result<String>> + Send + 'a>>;

/// A type that a handler needs injected.
#[derive(Clone, Copy)]
pub struct StateNeed {
    id: fn() -> TypeId,
    name: fn() -> &'static str,
}

impl StateNeed {
    /// Returns the need of an argument `State<T>`, written as `StateNeed::of::<State<T>>()`.
    pub const fn of<S: StateArgument>() -> Self {
        Self {
            id: TypeId::of::<S::Value>,
            name: type_name::<S::Value>,
        }
    }

    pub(crate) fn id(&self) -> TypeId {
        (self.id)()
    }

    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }
}

/// Names the value type of a `State<T>`, also through an alias.
pub trait StateArgument {
    /// The type `T`.
    type Value: 'static;
}

impl<T: 'static> StateArgument for State<T> {
    type Value = T;
}

/// What `#[task]` knows of a task; collected at link time, stored in `conductor.tasks`.
#[derive(Clone, Copy)]
pub struct TaskDefinition {
    /// The task's name in the database.
    pub name: &'static str,
    /// The queue of its executions. Default: `default`.
    pub queue: &'static str,
    /// The default priority of its executions; higher is claimed first. Default: 0.
    pub priority: i32,
    /// How failed attempts are retried.
    pub retry: RetryPolicy,
    /// The time limit of one attempt. Default: none.
    pub timeout: Option<Duration>,
    /// How long finished executions are kept.
    pub keep: Keep,
    /// The schedules that the task declares.
    pub crons: &'static [CronDefinition],
    /// When it may run. Default: always.
    pub window: Option<WindowDefinition>,
    /// Limits on how many run at once or start in an interval.
    pub limits: &'static [LimitDefinition],
    /// The path in the payload of the key whose executions run one after the other; empty if they are not ordered.
    pub ordered_by: &'static [&'static str],
    /// The events that start it.
    pub subscriptions: &'static [SubscriptionDefinition],
    /// The row changes that start it.
    pub row_triggers: &'static [RowTriggerDefinition],
    /// The doc comment.
    pub docs: &'static str,
    /// Where the task is declared in the source.
    pub place: Place,
    /// The package that declares the task.
    pub package: &'static str,
    /// The module that declares the task, beginning with the crate's name.
    pub module: &'static str,
    /// The values that the handler needs injected.
    pub states: &'static [StateNeed],
    pub(crate) payload_schema: fn() -> schemars::Schema,
    pub(crate) output_schema: fn() -> schemars::Schema,
    pub(crate) check_payload: fn(&str) -> Result<(), String>,
    pub(crate) unknown_name: fn(&str) -> Option<String>,
    pub(crate) check_output: fn(&str) -> Result<(), String>,
    pub(crate) runner: Runner,
    pub(crate) type_id: fn() -> TypeId,
}

pub(crate) type RunSingle = for<'a> fn(&'a TaskContext, &'a str) -> ErasedFuture<'a>;

/// How executions are run: one by one, or several together.
#[derive(Clone, Copy)]
pub(crate) enum Runner {
    Single(RunSingle),
    Batch(BatchDefinition),
}

impl TaskDefinition {
    /// Returns the definition of `T` with every option at its default.
    pub const fn of<T: Handler>(place: Place, package: &'static str, module: &'static str) -> Self {
        Self::new::<T>(
            place,
            package,
            module,
            Runner::Single(|ctx, payload| {
                Box::pin(async move {
                    let payload = match codec::decode_payload::<T>(payload) {
                        Ok(payload) => payload,
                        Err(unreadable) => ctx.leave(unreadable).await,
                    };
                    let output = T::call(ctx, payload).await?;
                    encode_output::<T>(&output)
                })
            }),
        )
    }

    /// Returns the definition of a `T` whose executions run in batches of at most `max_size` items.
    ///
    /// The first item of a batch waits at most `max_wait_ms` milliseconds for others.
    pub const fn of_batch<T: BatchHandler>(
        place: Place,
        package: &'static str,
        module: &'static str,
        max_size: u32,
        max_wait_ms: u64,
    ) -> Self {
        let batch = BatchDefinition::of::<T>(max_size, max_wait_ms);
        Self::new::<T>(place, package, module, Runner::Batch(batch))
    }

    const fn new<T: Task>(
        place: Place,
        package: &'static str,
        module: &'static str,
        runner: Runner,
    ) -> Self {
        Self {
            name: T::NAME,
            queue: "default",
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            timeout: None,
            keep: Keep::DEFAULT,
            crons: &[],
            window: None,
            limits: &[],
            ordered_by: &[],
            subscriptions: &[],
            row_triggers: &[],
            docs: "",
            place,
            package,
            module,
            states: &[],
            payload_schema: codec::schema_of::<T::Payload>,
            output_schema: codec::schema_of::<T::Output>,
            check_payload: |json| {
                codec::decode::<T::Payload>(json)
                    .map(drop)
                    .map_err(Into::into)
            },
            unknown_name: codec::unknown_name::<T::Payload>,
            check_output: |json| read::<T::Output>(json).map(drop).map_err(Into::into),
            runner,
            type_id: TypeId::of::<T>,
        }
    }

    /// Sets the queue.
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = queue;
        self
    }

    /// Sets the priority.
    #[must_use]
    pub const fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the number of attempts after which a failure is final.
    #[must_use]
    pub const fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.retry.max_attempts = max_attempts;
        self
    }

    /// Sets the first and the longest delay between attempts, in milliseconds.
    #[must_use]
    pub const fn backoff_ms(mut self, initial: u64, max: u64) -> Self {
        self.retry.backoff_initial = Duration::from_millis(initial);
        self.retry.backoff_max = Duration::from_millis(max);
        self
    }

    /// Sets the share by which delays vary at random, from 0 to 1.
    #[must_use]
    pub const fn jitter(mut self, jitter: f64) -> Self {
        self.retry.jitter = jitter;
        self
    }

    /// Sets the time limit of one attempt, in milliseconds.
    #[must_use]
    pub const fn timeout_ms(mut self, timeout: u64) -> Self {
        self.timeout = Some(Duration::from_millis(timeout));
        self
    }

    /// Sets how long completed executions are kept, in milliseconds.
    #[must_use]
    pub const fn keep_completed_ms(mut self, keep: u64) -> Self {
        self.keep.completed = Duration::from_millis(keep);
        self
    }

    /// Sets how long failed and cancelled executions are kept, in milliseconds.
    #[must_use]
    pub const fn keep_failed_ms(mut self, keep: u64) -> Self {
        self.keep.failed = Duration::from_millis(keep);
        self
    }

    /// Sets the schedules.
    #[must_use]
    pub const fn crons(mut self, crons: &'static [CronDefinition]) -> Self {
        self.crons = crons;
        self
    }

    /// Sets when the task may run.
    #[must_use]
    pub const fn window(mut self, window: WindowDefinition) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets the limits.
    #[must_use]
    pub const fn limits(mut self, limits: &'static [LimitDefinition]) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the key whose executions run one after the other.
    #[must_use]
    pub const fn ordered_by(mut self, path: &'static [&'static str]) -> Self {
        self.ordered_by = path;
        self
    }

    /// Sets the events that start it.
    #[must_use]
    pub const fn subscriptions(mut self, subscriptions: &'static [SubscriptionDefinition]) -> Self {
        self.subscriptions = subscriptions;
        self
    }

    /// Sets the row changes that start it.
    #[must_use]
    pub const fn row_triggers(mut self, row_triggers: &'static [RowTriggerDefinition]) -> Self {
        self.row_triggers = row_triggers;
        self
    }

    /// Sets the doc comment.
    #[must_use]
    pub const fn docs(mut self, docs: &'static str) -> Self {
        self.docs = docs;
        self
    }

    /// Sets the values that the handler needs injected.
    #[must_use]
    pub const fn states(mut self, states: &'static [StateNeed]) -> Self {
        self.states = states;
        self
    }

    /// Returns how executions run together, or `None` if each runs alone.
    pub const fn batch(&self) -> Option<&BatchDefinition> {
        match &self.runner {
            Runner::Batch(batch) => Some(batch),
            Runner::Single(_) => None,
        }
    }

    /// Returns the package and the crate that declare it. Binaries and examples of one package are crates of their
    /// own.
    pub(crate) fn owner(&self) -> String {
        let krate = self.module.split("::").next().unwrap_or_default();
        format!("{}/{krate}", self.package)
    }

    /// Returns the JSON Schema of the payload.
    pub fn payload_schema(&self) -> serde_json::Value {
        (self.payload_schema)().to_value()
    }

    /// Returns the JSON Schema of the output.
    pub fn output_schema(&self) -> serde_json::Value {
        (self.output_schema)().to_value()
    }

    /// Returns an error if an invoke may not have this payload.
    ///
    /// Like [`check_payload`](Self::check_payload), but a payload made of arguments may not have names that the task
    /// does not know.
    pub fn check_given(&self, json: &str) -> Result<(), String> {
        match self.check_payload(json) {
            Ok(()) => (self.unknown_name)(json).map_or(Ok(()), Err),
            // A misspelt name also makes the right one missing; its message is more useful.
            Err(error) => Err((self.unknown_name)(json).unwrap_or(error)),
        }
    }

    /// Returns an error if the handler could not read this payload from the database.
    pub fn check_payload(&self, json: &str) -> Result<(), String> {
        (self.check_payload)(json)
    }

    /// Returns an error if a caller that waits for the result could not read this output.
    pub fn check_output(&self, json: &str) -> Result<(), String> {
        (self.check_output)(json)
    }
}

impl fmt::Debug for TaskDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskDefinition")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("priority", &self.priority)
            .field("retry", &self.retry)
            .field("timeout", &self.timeout)
            .field("keep", &self.keep)
            .field("crons", &self.crons)
            .field("window", &self.window)
            .field("limits", &self.limits)
            .field("ordered_by", &self.ordered_by)
            .field("batch", &self.batch())
            .field("subscriptions", &self.subscriptions)
            .field("row_triggers", &self.row_triggers)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

inventory::collect!(TaskDefinition);
