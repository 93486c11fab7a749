//! Tests of tasks, each against a database of its own.
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
//! The databases live on the server of `DATABASE_URL`, or on a volatile embedded one that all
//! tests of a machine's user share and that ends with the last of them. Each is copied from a
//! template that has the schema already, and dropped when its `TestConductor` is.

mod database;
mod run;

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use run::{FromTest, run};

use crate::client::Conductor;
use crate::context::{BatchContext, BatchItem, Memo, TaskContext};
use crate::error::{Error, Result};
use crate::orchestrator::{Builder, Orchestrator};
use crate::task::{States, Trigger};
use crate::worker::Claim;
use database::Database;

/// A [`Conductor`] on a database of its own, with what tests want beside.
#[derive(Debug)]
pub struct TestConductor {
    conductor: Conductor,
    states: Mutex<States>,
    // Dropped last: the connections above must be closed before the database can go.
    database: Database,
}

impl TestConductor {
    /// Makes a database and connects to it.
    ///
    /// # Errors
    /// As [`Conductor::connect`]; with `DATABASE_URL` set, its role must be allowed to create
    /// databases.
    pub async fn new() -> Result<Self> {
        let database = Database::create().await?;
        let conductor = Conductor::connect_to(database.url()).await?;
        Ok(Self {
            conductor,
            states: Mutex::default(),
            database,
        })
    }

    /// The address of the test's database, for processes that the test starts.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// Gives handlers a value in every later [`drain`](Self::drain); one a type.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(value);
        self
    }

    /// An orchestrator for this database, to be started by the test itself.
    pub fn orchestrator(&self) -> Builder {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        Orchestrator::builder(self.conductor.clone()).states(states.clone())
    }

    /// A context for calling a handler as the function that it is, with the values of
    /// [`state`](Self::state).
    pub fn context(&self) -> TaskContext {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        detached(states.clone())
    }

    /// As [`context`](Self::context), for a batch handler that is called with so many items.
    pub fn batch_context(&self, items: usize) -> BatchContext {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        detached_batch(states.clone(), items)
    }

    /// Runs everything that is due, and what comes of it, until nothing is due and nothing runs. Before it, what
    /// has passed the end of its retention since the clock was moved is removed.
    /// Items that wait for a batch to fill do so in real time.
    pub async fn drain(&self) -> Result<()> {
        self.orchestrator().build()?.drain().await
    }

    /// Moves the one virtual clock: schedules, delays, backoffs, timeouts, retention. Running workers are
    /// told; with none, the next [`drain`](Self::drain) finds what has become due.
    pub async fn advance(&self, by: Duration) -> Result<()> {
        let micros = i64::try_from(by.as_micros())
            .map_err(|_| Error::Invalid(format!("cannot advance the clock by {by:?}")))?;
        sqlx::query("select conductor.advance_clock($1 * interval '1 microsecond')")
            .bind(micros as f64)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

/// Makes this process one of a later build, which has one migration more: for tests of deploys, in a
/// process of their own. To be called before anything else; said twice, the first one stays.
#[doc(hidden)]
pub fn pretend_migration(breaking: bool, sql: &'static str) {
    crate::db::pretend(breaking, sql);
}

/// A context for calling a handler as the function that it is, without any database.
///
/// Steps run and are not recorded. What cannot be without a database is an error: `transaction`,
/// `sleep`, `invoke`, `cancel`.
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

/// A context for calling a batch handler with so many items, without any database.
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
