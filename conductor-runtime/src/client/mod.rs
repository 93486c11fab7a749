//! What an application does with tasks: invoke, wait, cancel, look.

mod batch;
mod cancel;
mod children;
mod execution;
mod held_up;
mod insert;
mod invocation;
mod invoke;
mod invoked;
mod query;
mod queues;
mod schedule;
mod schedules;
mod story;
mod why;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::db::{self, Address, Alone, Database, Notifier, OUTAGE, Outage, Patience};
use crate::error::{Error, Result};
use crate::event::Emitter;
use crate::registry::{Registry, declaration};
use crate::task::{Task, TaskDefinition};

pub use batch::InvokeBatch;
pub use cancel::Cancel;
pub use children::{Brief, Child};
pub use execution::{Execution, Status};
use insert::{Answer, Inserter};
pub use invocation::Invocation;
pub use invoke::{Invoke, InvokeInTransaction};
pub use invoked::Invoked;
pub use query::{ExecutionInfo, FailedAttempt, Filter, Stuck};
pub use queues::QueueInfo;
pub(crate) use schedule::{Rule, check_name as check_schedule_name, remove as remove_schedule};
pub use schedule::{Schedule, Unschedule};
pub use schedules::ScheduleInfo;
pub use story::{Astray, Parent, Process, Runner, StepInfo, StepKey, Story, WaitInfo};
pub use why::{Awaited, LimitKey, Reason, Why};

/// The client: one per process, cheap to clone.
///
/// ```no_run
/// use conductor::prelude::*;
///
/// #[task]
/// async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
///     Ok(format!("Hello, {name}!"))
/// }
///
/// # async fn f() -> anyhow::Result<()> {
/// let conductor = Conductor::connect().await?;
/// let run = conductor.invoke::<Greet>(Greet { name: "Alice".into() }).await?;
/// println!("{}", run.result().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Conductor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: Database,
    notifier: Notifier,
    outage: Arc<Outage>,
    inserter: Inserter,
    emitter: Emitter,
    /// Events of row changes that were seen to be watched, and when.
    watches: Mutex<HashMap<String, (String, Instant)>>,
    ready: OnceCell<()>,
    declared: Mutex<HashSet<&'static str>>,
    #[cfg(feature = "embedded")]
    embedded: Option<crate::embedded::Embedded>,
}

impl Conductor {
    /// Connects to `DATABASE_URL`; where it is unset or empty, to this project's embedded
    /// Postgres, which is started if it does not run. Applies missing migrations.
    ///
    /// # Errors
    /// The server does not answer, the role may not migrate, the schema has a breaking migration
    /// that this binary does not know, older processes did not end for one within a minute, or no Postgres binaries can be had.
    pub async fn connect() -> Result<Self> {
        let conductor = Self::open().await?;
        conductor.migrate().await?;
        Ok(conductor)
    }

    /// As [`connect`](Self::connect), to this address.
    pub async fn connect_to(url: &str) -> Result<Self> {
        let conductor = Self::open_url(url).await?;
        conductor.migrate().await?;
        Ok(conductor)
    }

    /// As [`connect`](Self::connect), but leaves the schema as it is until the first call.
    pub async fn open() -> Result<Self> {
        match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Self::open_url(&url).await,
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::Connect {
                url: "DATABASE_URL".to_owned(),
                reason: "it is not valid UTF-8".to_owned(),
            }),
            _ => Self::open_embedded().await,
        }
    }

    /// As [`open`](Self::open), at this address.
    pub async fn open_url(url: &str) -> Result<Self> {
        let pool = db::open(&Address::parse(url)?).await?;
        Ok(Self::from_pool(pool))
    }

    #[cfg(feature = "embedded")]
    async fn open_embedded() -> Result<Self> {
        use crate::embedded::{Embedded, Kind};
        let embedded = Embedded::start(Kind::Durable).await?;
        let pool = db::open(&Address::parse(&embedded.url("postgres"))?).await?;
        Ok(Self::with(pool, Some(embedded)))
    }

    #[cfg(not(feature = "embedded"))]
    async fn open_embedded() -> Result<Self> {
        Err(Error::Embedded(
            "DATABASE_URL is unset and this program is built without the feature `embedded`"
                .to_owned(),
        ))
    }

    /// Uses an existing pool. The schema is looked at (and brought up to date) by the first call.
    ///
    /// An orchestrator works with connections beside it, opened with its options as needed: two for each
    /// worker and four more, but no more than the pool has, and one each for heartbeat and notifications.
    pub fn from_pool(pool: PgPool) -> Self {
        Self::with(
            pool,
            #[cfg(feature = "embedded")]
            None,
        )
    }

    fn with(
        pool: PgPool,
        #[cfg(feature = "embedded")] embedded: Option<crate::embedded::Embedded>,
    ) -> Self {
        let database = Database::new(pool);
        Self {
            shared: Arc::new(Shared {
                inserter: Inserter::new(database.clone()),
                emitter: Emitter::new(database.clone()),
                watches: Mutex::default(),
                outage: Arc::new(Outage::of(&database)),
                database,
                notifier: Notifier::new(),
                ready: OnceCell::new(),
                declared: Mutex::default(),
                #[cfg(feature = "embedded")]
                embedded,
            }),
        }
    }

    /// The same, for the orchestrator's own work: with at most so many connections of its own, and with
    /// its own ear for notifications. They belong to the runtime in which this is called.
    pub(crate) fn apart(&self, most: u32) -> Self {
        let database = self.database().apart(most);
        Self {
            shared: Arc::new(Shared {
                inserter: Inserter::new(database.clone()),
                emitter: Emitter::new(database.clone()),
                watches: Mutex::default(),
                database,
                notifier: self.notifier().apart(),
                outage: Arc::clone(&self.shared.outage),
                ready: OnceCell::new_with(Some(())),
                declared: Mutex::default(),
                #[cfg(feature = "embedded")]
                embedded: None,
            }),
        }
    }

    /// The pool, for the application's own statements.
    pub fn pool(&self) -> &PgPool {
        self.shared.database.pool()
    }

    /// The way that the work goes.
    pub(crate) fn database(&self) -> &Database {
        &self.shared.database
    }

    /// The embedded server, where that is what this client is connected to.
    #[cfg(feature = "embedded")]
    pub fn embedded(&self) -> Option<&crate::embedded::Embedded> {
        self.shared.embedded.as_ref()
    }

    /// Applies missing migrations; does nothing the second time. Waits up to a minute for older
    /// processes, as [`migrate_within`](Self::migrate_within) tells.
    pub async fn migrate(&self) -> Result<()> {
        self.migrate_within(db::MIGRATION_DEADLINE).await
    }

    /// Applies missing migrations; does nothing the second time.
    ///
    /// Where one of them is marked as breaking, running processes with an older schema version are
    /// told to drain and end, as if by SIGTERM, and the migration waits for them. A compatible one
    /// disturbs nobody. Any number of processes may call this at once.
    ///
    /// # Errors
    /// [`Error::Schema`] where older processes are still there after `deadline`, with their hosts and
    /// numbers; nothing was applied then. Also where the schema has a breaking migration that this
    /// build does not know. [`Error::Database`] where the server cannot be reached or refuses.
    pub async fn migrate_within(&self, deadline: Duration) -> Result<()> {
        self.shared
            .ready
            .get_or_try_init(|| async {
                self.find_way().await?;
                db::migrate(self.database(), deadline, &self.how_to_begin_anew())
                    .await
                    .map(drop)
            })
            .await
            .copied()
    }

    fn how_to_begin_anew(&self) -> String {
        #[cfg(feature = "embedded")]
        if let Some(embedded) = self.embedded() {
            return format!(
                "end all programs of this project and remove the data of its private Postgres,\n    rm -r '{}'\n  or keep it, and set CONDUCTOR_DATA_DIR to another folder",
                embedded.data_dir().display()
            );
        }
        "`drop schema conductor cascade`".to_owned()
    }

    /// The schema version that the database has; 0 where there is none. Changes nothing.
    pub async fn schema_version(&self) -> Result<i32> {
        self.find_way().await?;
        db::applied_version(self.database()).await
    }

    /// Finds out whether a pooler lies between; between a private server and its program none does.
    pub(crate) async fn find_way(&self) -> Result<()> {
        #[cfg(feature = "embedded")]
        if self.shared.embedded.is_some() {
            return Ok(());
        }
        Ok(self.database().look_for_pooler().await?)
    }

    /// Makes the roles `conductor_client`, which invokes, emits, cancels, retries and reads, and
    /// `conductor_worker`, which works, where they are missing, and gives them their rights on this
    /// schema. Later migrations give them what is new.
    ///
    /// # Errors
    /// This client's role does not own the schema, or may not create roles.
    pub async fn create_roles(&self) -> Result<()> {
        self.migrate().await?;
        db::create_roles(self.database()).await
    }

    /// Makes an execution of `T`: `.await` it, or say more with `.run_at(…)`, `.delay(…)`,
    /// `.priority(…)`, `.dedupe_key(…)`, `.throttle(…)`, `.debounce(…)`, `.max_wait(…)`, `.in_transaction(…)` first.
    ///
    /// When the call returns, the execution is committed and will run, whatever crashes.
    pub fn invoke<T: Task>(&self, payload: T::Payload) -> Invoke<'_, T> {
        Invoke::new(self, payload)
    }

    /// Makes an execution of each payload, all or none, in their order; gives the ids. Any number:
    /// many go in one transaction, a few thousand a statement.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// #[task]
    /// async fn square(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> { Ok(n * n) }
    ///
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// let ids = conductor.invoke_batch::<Square>((0..1000).map(|n| Square { n })).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn invoke_batch<T: Task>(
        &self,
        payloads: impl IntoIterator<Item = T::Payload>,
    ) -> InvokeBatch<'_> {
        InvokeBatch::new(self, payloads.into_iter().map(Invocation::<T>::new))
    }

    /// As [`invoke_batch`](Self::invoke_batch), with options for each; gives the ids in the order
    /// of the items.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// use conductor::Invocation;
    ///
    /// #[task]
    /// async fn square(ctx: &TaskContext, n: i64) -> anyhow::Result<i64> { Ok(n * n) }
    ///
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// let items = (0..1000).map(|n| {
    ///     Invocation::new(Square { n }).priority(n as i32 % 3).dedupe_key(format!("square-{n}"))
    /// });
    /// let ids = conductor.invoke_batch_with::<Square>(items).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Where a key occurs several times in a batch, all these items give the same id: the last one's
    /// payload stays, or with `throttle` the first one's.
    pub fn invoke_batch_with<T: Task>(
        &self,
        items: impl IntoIterator<Item = Invocation<T>>,
    ) -> InvokeBatch<'_> {
        InvokeBatch::new(self, items.into_iter())
    }

    /// A handle to an execution that exists.
    pub fn execution<T: Task>(&self, id: Uuid) -> Execution<T> {
        let came_of = Invoked::Existing;
        Execution::invoked(self.clone(), Answer { id, came_of })
    }

    /// Cancels an execution; false where it is unknown or has ended. Add `.reason("…")`.
    ///
    /// A pending one ends at once. A running handler is told within a second
    /// (`ctx.cancelled()`), and whatever it returns is recorded as cancelled.
    pub fn cancel(&self, id: Uuid) -> Cancel<'_> {
        Cancel::new(Ok(self), id)
    }

    /// Runs an execution again: one that waits for its next attempt is due now and keeps its id,
    /// a failed or cancelled one is repeated under a new id with the same payload, the recorded steps and
    /// the children that still run. One that was repeated before goes on where its last repeat has ended.
    /// Gives the id, or none where it is unknown, running or completed, by a repeat too.
    pub async fn retry(&self, id: Uuid) -> Result<Option<Uuid>> {
        self.migrate().await?;
        Ok(sqlx::query_scalar("select conductor.retry($1)")
            .bind(id)
            .one(self.database())
            .await?)
    }

    /// Makes a schedule that invokes `T` with this payload at each tick of a cron rule, whatever is
    /// deployed or restarted meanwhile, or replaces the one of that name: `.await` it, or say more
    /// with `.timezone(…)`, `.missed(…)`, `.overlap(…)` first.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// #[task]
    /// async fn report(ctx: &TaskContext, kind: String) -> anyhow::Result<()> { Ok(()) }
    ///
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// conductor
    ///     .schedule::<Report>("daily-reports", "0 9 * * Mon-Fri", Report { kind: "sales".into() })
    ///     .timezone("Europe/Berlin")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn schedule<T: Task>(
        &self,
        name: impl Into<String>,
        cron: impl Into<String>,
        payload: T::Payload,
    ) -> Schedule<'_> {
        Schedule::new::<T>(Ok(self), name.into(), cron.into(), &payload)
    }

    /// Removes a schedule that was made by [`schedule`](Self::schedule); what it has started goes
    /// on. False where there is none. Schedules that the code declares stay: pause them instead.
    pub fn unschedule<T: Task>(&self, name: impl Into<String>) -> Unschedule<'_> {
        Unschedule::new(Ok(self), T::NAME.to_owned(), name.into())
    }

    pub(crate) fn notifier(&self) -> &Notifier {
        &self.shared.notifier
    }

    pub(crate) fn outage(&self) -> &Outage {
        &self.shared.outage
    }

    fn inserter(&self) -> &Inserter {
        &self.shared.inserter
    }

    /// The event of a row change that was watched a moment ago, so that a wait that is met at each of
    /// many replays asks the database once.
    pub(crate) fn watched(&self, what: &str) -> Option<String> {
        const FRESH: Duration = Duration::from_secs(60);
        let watches = self.shared.watches.lock();
        let watches = watches.unwrap_or_else(PoisonError::into_inner);
        let (event, at) = watches.get(what)?;
        (at.elapsed() < FRESH).then(|| event.clone())
    }

    pub(crate) fn note_watched(&self, what: String, event: &str) {
        let watches = self.shared.watches.lock();
        let mut watches = watches.unwrap_or_else(PoisonError::into_inner);
        watches.insert(what, (event.to_owned(), Instant::now()));
    }

    pub(crate) fn emitter(&self) -> &Emitter {
        &self.shared.emitter
    }

    /// Makes tasks known to the database, with the options that they have here; gives
    /// `(task id, queue id, name)` of each.
    pub(crate) async fn declare(
        &self,
        tasks: impl Iterator<Item = &TaskDefinition>,
    ) -> Result<Vec<(i32, i32, String)>> {
        Ok(
            sqlx::query_as("select id, queue_id, name from conductor.declare_tasks($1, true)")
                .bind(declaration(tasks))
                .all(self.database())
                .await?,
        )
    }

    /// Makes a task of this binary known, so that it can be invoked before any worker starts.
    pub(crate) async fn ensure_declared(&self, name: &str) -> Result<()> {
        self.migrate().await?;
        let Some(task) = Registry::global().get(name) else {
            return Ok(());
        };
        if lock(&self.shared.declared).contains(task.name) {
            return Ok(());
        }
        Registry::global().check()?;
        // A worker's declaration stays as it is.
        let declaration = declaration(std::iter::once(task));
        let mut patience = Patience::new(OUTAGE);
        loop {
            let declare = sqlx::query("select conductor.declare_missing($1)").bind(&declaration);
            match patience.ask(self.database(), declare).await {
                Ok(_) => break,
                Err(error) if patience.again(&error).await => {}
                Err(error) => return Err(patience.over(error)),
            }
        }
        lock(&self.shared.declared).insert(task.name);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
