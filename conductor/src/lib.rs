//! Durable tasks on Postgres: background jobs, workflows, schedules and events.
//!
//! Annotate an `async fn` with [`#[task]`](macro@crate::task). Each invocation becomes an *execution*, a
//! row in Postgres. Any number of worker processes run executions, retry them after failures and
//! recover them after crashes. The compiler checks payloads, results, events and cron expressions.
//! There is no broker and no workflow server to operate.
//!
//! ```toml
//! [dependencies]
//! conductor = "0.1"
//! anyhow = "1"
//! ```
//!
//! ```no_run
//! use conductor::prelude::*;
//!
//! /// Greets a person by name.
//! #[task(queue = "fast", retry(max_attempts = 5), timeout = "30s")]
//! async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
//!     Ok(format!("Hello, {name}!"))
//! }
//!
//! conductor::main!();
//! ```
//!
//! [`main!`](crate::main) makes this program a worker and a command line at once:
//!
//! ```sh
//! cargo run                                     # a worker, on a private Postgres
//! cargo run -- invoke greet name=Alice --wait   # in another terminal: prints "Hello, Alice!"
//! cargo run -- --help                           # lists all commands
//! ```
//!
//! It connects to the PostgreSQL server (14 or later) at `DATABASE_URL`. If that variable is unset, it
//! starts a private Postgres for the project: the installed one, or a build fetched by `uv` or `pip`; see
//! [`embedded`]. The guide's page on [setting up](crate::guide::setup) has the rest of `Cargo.toml`:
//! libraries with tasks, and types of other crates. A program with
//! [a `main` of its own](crate::guide::running#a-main-of-your-own) builds an [`Orchestrator`], for example
//! beside a web server.
//!
//! # A client
//!
//! A program that only invokes tasks needs no worker. It depends on the crate that defines the tasks,
//! so payloads and results are typed:
//!
//! ```no_run
//! use conductor::prelude::*;
//!
//! # #[task]
//! # async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> { Ok(name) }
//! #
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     let conductor = Conductor::connect().await?;
//!
//!     let run = conductor.invoke::<Greet>(Greet { name: "Alice".into() }).await?;
//!     let greeting: String = run.result().await?;
//!     println!("{greeting}");
//!
//!     // Committed or rolled back together with your own writes.
//!     let mut tx = conductor.pool().begin().await?;
//!     conductor.invoke::<Greet>(Greet { name: "Bob".into() }).in_transaction(&mut tx).await?;
//!     tx.commit().await?;
//!     Ok(())
//! }
//! ```
//!
//! A program without that crate calls [`Untyped::invoke`](client::Untyped::invoke) with a task's name and a payload as
//! JSON. Other languages, psql and triggers use SQL: `select conductor.invoke('greet', '{"name": "Alice"}')`.
//!
//! # Steps
//!
//! A handler can run more than once, for example if an attempt fails or its process dies. A completed
//! step is recorded and does not run again. A handler that sleeps or waits occupies no worker:
//!
//! ```
//! use conductor::prelude::*;
//! use std::time::Duration;
//!
//! #[task]
//! async fn trial(ctx: &TaskContext, user: i64) -> anyhow::Result<String> {
//!     let account: String = ctx.step("open", || async { open_account(user).await }).await?;
//!     ctx.sleep("two weeks", Duration::from_secs(14 * 24 * 60 * 60)).await?;
//!     ctx.step("remind", || async { send_mail(&account).await }).await?;
//!     Ok(account)
//! }
//! # async fn open_account(_: i64) -> anyhow::Result<String> { Ok(String::new()) }
//! # async fn send_mail(_: &str) -> anyhow::Result<()> { Ok(()) }
//! ```
//!
//! [`TaskContext::transaction`] commits your own writes and the record of the step together, so they
//! take effect exactly once.
//!
//! # Guide
//!
//! | page | about |
//! | --- | --- |
//! | [`setup`](crate::guide::setup) | `Cargo.toml`, features, libraries with tasks |
//! | [`tasks`](crate::guide::tasks) | payloads, injected values, failures and retries, batches |
//! | [`invoking`](crate::guide::invoking) | delays, deduplication, throttling, debouncing, transactions, SQL |
//! | [`steps`](crate::guide::steps) | steps, sleeps, child tasks, races, exactly-once writes, cancellation |
//! | [`scheduling`](crate::guide::scheduling) | cron expressions, schedules at run time, time windows |
//! | [`flow_control`](crate::guide::flow_control) | queues, concurrency limits, rate limits, ordering |
//! | [`events`](crate::guide::events) | emitting events, waiting for them, starting tasks by them |
//! | [`row_changes`](crate::guide::row_changes) | starting tasks by inserts, updates and deletes |
//! | [`running`](crate::guide::running) | workers, a `main` of your own, deploys, failures of the infrastructure, retention |
//! | [`database`](crate::guide::database) | roles, poolers, TLS |
//! | [`testing`](crate::guide::testing) | tests with a database and a clock of their own |
//!
//! # Main types
//!
//! | type | purpose |
//! | --- | --- |
//! | [`Conductor`] | client of one database: invokes, emits, cancels, schedules, lists |
//! | [`Execution`] | handle to one execution: its ID, status and typed result |
//! | [`TaskContext`] | first argument of a handler: steps, sleeps, child tasks, waits |
//! | [`BatchContext`] | first argument of a batch handler: the executions that one call runs |
//! | [`State`] | argument of a handler that the orchestrator injects, such as a client or a pool |
//! | [`Task`], [`Event`] | traits that `#[task]` and `#[event]` implement |
//! | [`Trigger`] | what started an execution: an invoke, a schedule, an event or a row change |
//! | [`CronTick`], [`RowChange`] | what a task receives from a schedule or a row change |
//! | [`Orchestrator`], [`Worker`] | the workers of one process, one per queue |
//! | [`Error`], [`Failure`], [`RetryExt`] | errors of the library, recorded errors, and `.permanent()` and `.retry_after(…)` |
//! | [`Status`], [`Registry`] | the state of an execution, and a set of tasks |
//!
//! # Modules
//!
//! | module | contents |
//! | --- | --- |
//! | [`client`] | calls of applications, and the builders that they return |
//! | [`inspect`] | what the database knows: executions, histories, queues, events, and why something is not running |
//! | [`schedule`] | static and dynamic schedules, and what to do about missed ticks |
//! | [`tasks`] | options, limits and triggers of tasks |
//! | [`context`] | the durable calls of a handler |
//! | [`events`], [`rows`] | events with fields and filters, and row changes |
//! | [`orchestrator`] | the builder and the handle of an orchestrator |
//! | [`error`] | errors, failures and retry verdicts |
//! | [`check`] | whether a binary fits a database |
//!
//! # Features
//!
//! All features are enabled by default. A library with tasks needs none of them
//! (`default-features = false`), nor does a client that sets `DATABASE_URL`.
//!
//! | feature | contents |
//! | --- | --- |
//! | `cli` | [`main!`](crate::main) and the command line, [`cli`] |
//! | `embedded` | a private Postgres if `DATABASE_URL` is unset, [`embedded`] |
//! | `testing` | [`#[conductor::test]`](macro@crate::test), which gives each test a database of its own, and [`testing`] |

#[cfg(feature = "testing")]
pub use conductor_macros::test;
pub use conductor_macros::{event, task};
pub use conductor_runtime::check;
pub use conductor_runtime::client::{Conductor, Execution, Status};
pub use conductor_runtime::context::{BatchContext, TaskContext};
#[cfg(feature = "embedded")]
pub use conductor_runtime::embedded;
pub use conductor_runtime::error::{Error, Result};
pub use conductor_runtime::event::Event;
pub use conductor_runtime::failure::Failure;
pub use conductor_runtime::orchestrator::{Orchestrator, Worker};
pub use conductor_runtime::registry::Registry;
pub use conductor_runtime::row::RowChange;
pub use conductor_runtime::task::{CronTick, State, Task, Trigger};
#[cfg(feature = "testing")]
pub use conductor_runtime::testing;
pub use conductor_runtime::verdict::RetryExt;

#[doc(hidden)]
pub use at_the_root::*;

pub mod client;
pub mod inspect;
pub mod schedule;
pub mod tasks;
pub mod context;
pub mod events;
pub mod rows;
pub mod orchestrator;
pub mod error;

#[cfg(feature = "cli")]
pub use conductor_cli as cli;
#[cfg(feature = "cli")]
mod main_macro;
pub mod prelude;
mod at_the_root;
mod failures_macro;
mod verdicts_macro;
pub mod guide;

/// Items that generated code refers to; not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use conductor_runtime::event::{
        Emit, EmitInTransaction, Event, EventDefinition, Field, Filter, Nested, NestedInOption,
        StoredAsWritten, StoredByDerive, SubscriptionDefinition,
    };
    pub use conductor_runtime::failure::FailureOf;
    pub use conductor_runtime::inventory;
    pub use conductor_runtime::row::{RowChange, RowOp, RowPayload, RowTriggerDefinition};
    pub use conductor_runtime::task::{
        BatchHandler, CronDefinition, Declared, Handler, LimitDefinition, Place, StateNeed,
        TaskDefinition, TaskResult, WindowDefinition, batch_results, handler_result,
    };
    pub use conductor_runtime::verdict::VerdictOf;
    pub use {anyhow, schemars, serde};
}
