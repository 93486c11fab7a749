//! Tests of tasks, each with a database of its own.
//!
//! ```no_run
//! use conductor::prelude::*;
//! use conductor::testing::TestConductor;
//!
//! #[task]
//! async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
//!     Ok(format!("Hello, {name}!"))
//! }
//!
//! #[conductor::test]
//! async fn greets(test: TestConductor) -> anyhow::Result<()> {
//!     let run = test.invoke::<Greet>(Greet { name: "Alice".into() }).await?;
//!     test.drain().await?;
//!     assert_eq!(run.result().await?, "Hello, Alice!");
//!     Ok(())
//! }
//! ```
//!
//! The databases are on the server of `DATABASE_URL`, or on a volatile embedded one that all tests
//! of the machine's user share and that ends with the last of them. Each is copied from a template
//! that already has the schema, and is dropped together with its `TestConductor`.

mod database;
mod run;

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conductor_postgres::store::clock;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use run::{FromTest, run};

use crate::client::Conductor;
use crate::context::{BatchContext, BatchItem, Memo, TaskContext};
use crate::error::{Error, Result};
use crate::orchestrator::{Builder, Kept, Orchestrator};
use crate::registry::Registry;
use crate::task::{States, Trigger};
use crate::worker::Claim;
use database::Database;

/// A [`Conductor`] on a database of its own, with additions for tests.
#[derive(Debug)]
pub struct TestConductor {
    conductor: Conductor,
    states: Mutex<States>,
    /// The thread and the connections of the last drain, for the next one.
    kept: Mutex<Option<Kept>>,
    // Dropped last: the connections above must be closed before the database is dropped.
    database: Database,
}

impl TestConductor {
    /// Creates a database and connects to it.
    ///
    /// # Errors
    /// Those of [`Conductor::connect`]. If `DATABASE_URL` is set, its role must be allowed to
    /// create databases.
    pub async fn new() -> Result<Self> {
        let database = Database::create().await?;
        let conductor = Conductor::connect_to(database.url()).await?;
        Ok(Self {
            conductor,
            states: Mutex::default(),
            kept: Mutex::default(),
            database,
        })
    }

    /// Returns the address of the test's database, for processes that the test starts.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// Provides a value to handlers in every later [`drain`](Self::drain); one value per type.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(value);
        self
    }

    /// Knows and runs these tasks instead of those that are linked into the test's binary.
    #[must_use]
    pub fn tasks(mut self, registry: Registry) -> Self {
        self.conductor = self.conductor.with_tasks(registry);
        self.keep(None);
        self
    }

    /// Returns a builder for an orchestrator on this database, which the test starts itself.
    pub fn orchestrator(&self) -> Builder {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        Orchestrator::builder(self.conductor.clone()).states(states.clone())
    }

    /// Returns a context for calling a handler as a function, with the values of
    /// [`state`](Self::state).
    pub fn context(&self) -> TaskContext {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        detached(states.clone())
    }

    /// Returns a context for calling a batch handler with this many items.
    pub fn batch_context(&self, items: usize) -> BatchContext {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        detached_batch(states.clone(), items)
    }

    /// Runs everything that is due, and what follows from it, until nothing is due and nothing
    /// runs.
    ///
    /// First removes what is past its retention by the moved clock. Items that wait for a batch to
    /// fill do so in real time.
    pub async fn drain(&self) -> Result<()> {
        let orchestrator = self.orchestrator().build()?;
        let kept = match self.keep(None) {
            Some(kept) => kept,
            None => Kept::start(&self.conductor).await?,
        };
        // If it fails, or is dropped before its end, what still runs on the thread ends with it.
        orchestrator.drain_on(Some(&kept)).await?;
        self.keep(Some(kept));
        Ok(())
    }

    /// Replaces what is kept for the next drain.
    fn keep(&self, kept: Option<Kept>) -> Option<Kept> {
        let mut place = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, kept)
    }

    /// Moves the virtual clock forward: schedules, delays, backoffs, timeouts, retention.
    ///
    /// Running workers are notified; without any, the next [`drain`](Self::drain) finds what has
    /// become due.
    pub async fn advance(&self, by: Duration) -> Result<()> {
        let micros = i64::try_from(by.as_micros())
            .map_err(|_| Error::Invalid(format!("cannot advance the clock by {by:?}")))?;
        Ok(clock::advance(self.pool(), micros as f64).await?)
    }
}

/// Makes this process one of a later build that has one more migration, for tests of deploys in a
/// process of their own. Must be called before anything else; only the first call counts.
#[doc(hidden)]
pub fn pretend_migration(breaking: bool, sql: &'static str) {
    conductor_postgres::pretended::migration(breaking, sql);
}

/// Makes this process one of another build, whose functions have this version and end with these
/// statements, for tests of deploys in a process of their own. Must be called before anything else;
/// only the first call counts.
#[doc(hidden)]
pub fn pretend_functions(version: [i32; 3], sql: &'static str) {
    conductor_postgres::pretended::functions(version, sql);
}

/// Returns a context for calling a handler as a function, without a database.
///
/// Steps run and are not recorded. `transaction`, `sleep`, `invoke` and `cancel` return an error,
/// because they need a database.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task]
/// async fn double(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
///     Ok(n * 2)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// assert_eq!(double(&conductor::testing::context(), 21).await?, 42);
/// # Ok(())
/// # }
/// ```
pub fn context() -> TaskContext {
    detached(States::default())
}

/// Returns a context for calling a batch handler with this many items, without a database.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task(batch)]
/// async fn double(ctx: &BatchContext, items: Vec<i64>) -> anyhow::Result<Vec<i64>> {
///     Ok(items.iter().map(|n| n * 2).collect())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// let ctx = conductor::testing::batch_context(2);
/// assert_eq!(double(&ctx, vec![1, 2]).await?, [2, 4]);
/// # Ok(())
/// # }
/// ```
pub fn batch_context(items: usize) -> BatchContext {
    detached_batch(States::default(), items)
}

fn detached_batch(states: States, items: usize) -> BatchContext {
    let item = || {
        let id = Uuid::now_v7();
        BatchItem {
            execution_id: id,
            attempt: 1,
            origin: id,
            cancel: CancellationToken::new(),
        }
    };
    BatchContext {
        items: std::iter::repeat_with(item).take(items).collect(),
        states: Arc::new(states),
    }
}

fn detached(states: States) -> TaskContext {
    let id = Uuid::now_v7();
    TaskContext {
        execution_id: id,
        task: "",
        claim: Claim::default(),
        attempt: 1,
        origin: id,
        states: Arc::new(states),
        trigger: Trigger::default(),
        window: None,
        cancel: CancellationToken::new(),
        memo: Memo::default(),
        durable: None,
    }
}

impl Deref for TestConductor {
    type Target = Conductor;

    fn deref(&self) -> &Conductor {
        &self.conductor
    }
}
