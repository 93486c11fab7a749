//! The client API: invokes tasks, waits for results, cancels, schedules and inspects.

mod batch;
mod cancel;
mod children;
mod execution;
mod handles;
mod held_up;
mod insert;
mod invocation;
mod invoke;
mod invoked;
mod late_options;
mod old_names;
mod query;
mod queues;
mod schedule;
mod schedules;
mod step_key;
mod story;
mod why;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conductor_postgres::store::{executions, tasks};
use conductor_postgres::{
    Address, Database, MIGRATION_DEADLINE, Notifier, OUTAGE, Outage, RetryBudget,
};
use sqlx::postgres::PgPool;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::Emitter;
use crate::registry::{Registry, declaration};
use crate::task::Task;

pub use batch::InvokeBatch;
pub use cancel::Cancel;
pub use children::{Brief, Child};
pub use execution::{Execution, Status};
pub use handles::{Inspect, Queues, Schedules, Untyped};
use insert::{Answer, Inserter};
pub use invocation::Invocation;
pub use invoke::{Invoke, InvokeInTransaction};
pub use invoked::Invoked;
#[doc(hidden)]
pub use late_options::TakesOptions;
pub use query::{ExecutionInfo, FailedAttempt, Filter, Stuck};
pub use queues::QueueInfo;
pub(crate) use schedule::{Rule, check_name as check_schedule_name};
pub use schedule::{Schedule, Unschedule};
pub use schedules::ScheduleInfo;
pub use step_key::StepKey;
pub use story::{Astray, Parent, Process, Runner, StepInfo, Story, WaitInfo};
pub use why::{Awaited, LimitKey, Reason, Why};

/// A client of one Conductor database. Cheap to clone; one per process is enough.
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
    tasks: Arc<Tasks>,
}

/// The tasks that a client knows.
#[derive(Debug)]
struct Tasks {
    registry: Registry,
    /// Those that it has declared in the database.
    declared: Mutex<HashSet<&'static str>>,
}

impl Tasks {
    fn of(registry: Registry) -> Arc<Self> {
        Arc::new(Self {
            registry,
            declared: Mutex::default(),
        })
    }
}

#[derive(Debug)]
struct Shared {
    database: Database,
    notifier: Notifier,
    outage: Arc<Outage>,
    inserter: Inserter,
    emitter: Emitter,
    /// Row changes that the database was seen to record as events: the event's name, and when it
    /// was read.
    watches: Mutex<HashMap<String, (String, Instant)>>,
    ready: OnceCell<()>,
    #[cfg(feature = "embedded")]
    embedded: Option<crate::embedded::Embedded>,
}

impl Conductor {
    /// Connects to the database and applies missing migrations.
    ///
    /// The database is `DATABASE_URL`, or this project's embedded Postgres if that variable is
    /// unset or empty. An embedded server that does not run is started.
    ///
    /// # Errors
    /// - [`Error::Connect`] if the server does not answer.
    /// - [`Error::Database`] if the role may not migrate.
    /// - [`Error::Schema`] if the schema has a breaking migration that this binary does not know,
    ///   or if older processes have not ended within a minute so that a breaking one can be
    ///   applied.
    /// - [`Error::Embedded`] if no Postgres binaries can be found or fetched.
    pub async fn connect() -> Result<Self> {
        let conductor = Self::open().await?;
        conductor.migrate().await?;
        Ok(conductor)
    }

    /// Connects to the given address, as [`connect`](Self::connect) does.
    pub async fn connect_to(url: &str) -> Result<Self> {
        let conductor = Self::open_url(url).await?;
        conductor.migrate().await?;
        Ok(conductor)
    }

    /// Connects as [`connect`](Self::connect) does, but leaves migrations to the first call.
    pub async fn open() -> Result<Self> {
        match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Self::open_url(&url).await,
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::Connect {
                url: "DATABASE_URL".to_owned(),
                reason: "it is not valid UTF-8".to_owned(),
                source: None,
            }),
            _ => Self::open_embedded().await,
        }
    }

    /// Connects to the given address as [`open`](Self::open) does.
    pub async fn open_url(url: &str) -> Result<Self> {
        let pool = conductor_postgres::open(&Address::parse(url)?).await?;
        Ok(Self::from_pool(pool))
    }

    #[cfg(feature = "embedded")]
    async fn open_embedded() -> Result<Self> {
        use crate::embedded::{Embedded, Kind};
        let embedded = Embedded::start(Kind::Durable).await?;
        let pool = conductor_postgres::open(&Address::parse(&embedded.url("postgres"))?).await?;
        Ok(Self::with(pool, Some(embedded)))
    }

    #[cfg(not(feature = "embedded"))]
    async fn open_embedded() -> Result<Self> {
        Err(Error::Embedded(
            "DATABASE_URL is unset and this program is built without the feature `embedded`".into(),
        ))
    }

    /// Uses an existing pool. The first call checks the schema and applies missing migrations.
    ///
    /// An orchestrator does not take its connections from this pool. It opens its own with the
    /// pool's connect options: at most two for each worker plus four, and no more than the pool's
    /// maximum, plus one for the heartbeat and one for notifications.
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
                #[cfg(feature = "embedded")]
                embedded,
            }),
            tasks: Tasks::of(Registry::linked()),
        }
    }

    /// Returns a client for the orchestrator's own work, with at most `most` connections of its own
    /// and a listener of its own for notifications. Both belong to the async runtime in which this
    /// is called.
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
                #[cfg(feature = "embedded")]
                embedded: None,
            }),
            tasks: Arc::clone(&self.tasks),
        }
    }

    /// Returns a client of the same database that knows these tasks and events, instead of those that
    /// are linked into the program.
    ///
    /// A client declares a task in the database before it invokes it, and checks JSON against the
    /// task's types. It can invoke other tasks once an orchestrator has declared them.
    #[must_use]
    pub fn with_tasks(self, registry: Registry) -> Self {
        Self {
            tasks: Tasks::of(registry),
            ..self
        }
    }

    /// Returns the tasks and events that this client knows.
    pub fn registry(&self) -> &Registry {
        &self.tasks.registry
    }

    /// Returns the pool, for the application's own statements.
    pub fn pool(&self) -> &PgPool {
        self.shared.database.pool()
    }

    /// Returns the connections that the library's own statements use.
    pub(crate) fn database(&self) -> &Database {
        &self.shared.database
    }

    /// Returns the embedded server if this client is connected to one.
    #[cfg(feature = "embedded")]
    pub fn embedded(&self) -> Option<&crate::embedded::Embedded> {
        self.shared.embedded.as_ref()
    }

    /// Applies missing migrations, waiting up to a minute for older processes.
    ///
    /// Does nothing after the first success. See [`migrate_within`](Self::migrate_within).
    pub async fn migrate(&self) -> Result<()> {
        self.migrate_within(MIGRATION_DEADLINE).await
    }

    /// Applies missing migrations. Does nothing after the first success.
    ///
    /// If one of them is marked as breaking, running processes with an older schema version are
    /// asked to drain and end, as by SIGTERM, and the migration waits for them at most `deadline`.
    /// Compatible migrations do not affect running processes. Any number of processes may call this
    /// at once.
    ///
    /// # Errors
    /// - [`Error::Schema`] if older processes are still running after `deadline`; the error lists
    ///   their hosts and process ids, and nothing was applied.
    /// - [`Error::Schema`] if the schema has a breaking migration that this build does not know.
    /// - [`Error::Database`] if the server cannot be reached or refuses a statement.
    pub async fn migrate_within(&self, deadline: Duration) -> Result<()> {
        self.shared
            .ready
            .get_or_try_init(|| async {
                self.find_way().await?;
                let begin_anew = self.how_to_begin_anew();
                Ok(conductor_postgres::migrate(self.database(), deadline, &begin_anew).await?)
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

    /// Returns the database's schema version, or 0 if it has none. Changes nothing.
    pub async fn schema_version(&self) -> Result<i32> {
        self.find_way().await?;
        Ok(conductor_postgres::applied_version(self.database()).await?)
    }

    /// Finds out whether a pooler lies between client and server; an embedded server never has one.
    pub(crate) async fn find_way(&self) -> Result<()> {
        #[cfg(feature = "embedded")]
        if self.shared.embedded.is_some() {
            return Ok(());
        }
        Ok(self.database().look_for_pooler().await?)
    }

    /// Creates the roles `conductor_client` and `conductor_worker` if they are missing.
    ///
    /// Grants them their rights on this schema.
    ///
    /// `conductor_client` may invoke, emit, cancel, retry and read; `conductor_worker` may also run
    /// workers. Later migrations grant these roles what they add.
    ///
    /// # Errors
    /// [`Error::Database`] if this client's role does not own the schema or may not create roles.
    pub async fn create_roles(&self) -> Result<()> {
        self.migrate().await?;
        Ok(conductor_postgres::create_roles(self.database()).await?)
    }

    /// Invokes `T`: creates an execution with this payload.
    ///
    /// Configure it with `.run_at(…)`, `.delay(…)`, `.priority(…)`, `.dedupe_key(…)`,
    /// `.throttle(…)`, `.debounce(…)`, `.max_wait(…)` or `.in_transaction(…)`, then `.await` it.
    /// Does nothing until awaited.
    ///
    /// Once the call returns `Ok`, the execution is committed and survives any crash. If the call
    /// returns an error because the connection broke, the execution may exist all the same.
    pub fn invoke<T: Task>(&self, payload: T::Payload) -> Invoke<'_, T> {
        Invoke::new(self, payload)
    }

    /// Creates one execution for each payload, all or none.
    ///
    /// Returns the ids in the order of the payloads.
    ///
    /// The batch may have any number of items. They are written in one transaction, with at most
    /// 5000 in one statement.
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

    /// Creates one execution for each item, with options of its own, all or none.
    ///
    /// Returns the ids in the order of the items.
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
    /// If several items of a batch have the same dedupe key, they all return the same id. The
    /// execution has the payload of the last of them, or of the first one with `throttle`.
    pub fn invoke_batch_with<T: Task>(
        &self,
        items: impl IntoIterator<Item = Invocation<T>>,
    ) -> InvokeBatch<'_> {
        InvokeBatch::new(self, items.into_iter())
    }

    /// Returns a handle to an existing execution. Does not check whether it exists.
    pub fn execution<T: Task>(&self, id: Uuid) -> Execution<T> {
        let came_of = Invoked::Existing;
        Execution::invoked(self.clone(), Answer { id, came_of })
    }

    /// Cancels an execution. Returns false if it is unknown or has ended.
    ///
    /// Its children are cancelled, too, except detached ones.
    ///
    /// A pending or suspended execution ends at once. A running handler receives the cancel within a
    /// second (`ctx.cancelled()`), and whatever it returns, the execution ends as cancelled. Add
    /// `.reason("…")` to record why. A cancel that has returned survives any crash.
    pub fn cancel(&self, id: Uuid) -> Cancel<'_> {
        Cancel::new(Ok(self), id)
    }

    /// Runs an execution again, and returns the id of the execution that runs.
    ///
    /// A pending one is made due now and keeps its id. A failed or cancelled one is repeated under
    /// a new id, with the same payload, the recorded steps and the children that still run. If it
    /// was repeated before, the new one continues from where its last repeat ended. Returns `None`
    /// if the execution is unknown, running or suspended, or if it or a repeat of it has completed.
    pub async fn retry(&self, id: Uuid) -> Result<Option<Uuid>> {
        self.migrate().await?;
        Ok(executions::retry(self.database(), id).await?)
    }

    /// Creates a schedule that invokes `T` at each tick, or replaces the one of that name.
    ///
    /// Configure it with `.timezone(…)`, `.missed(…)` or `.overlap(…)`, then `.await` it. The
    /// schedule survives restarts and deploys until [`unschedule`](Self::unschedule) removes it.
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

    /// Removes a dynamic schedule. Returns false if there is none.
    ///
    /// A dynamic schedule is one that [`schedule`](Self::schedule) created.
    ///
    /// Executions that it has started continue. Schedules that the code declares cannot be removed;
    /// [pause](Schedules::pause) them instead.
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

    /// Returns the event of a row change if it was looked up less than a minute ago. A wait that is
    /// repeated at each of many replays then asks the database only once.
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

    /// Declares the tasks in the database, with the options that they have in this binary. Returns
    /// `(task id, queue id, name)` of each.
    pub(crate) async fn declare(&self) -> Result<Vec<(i32, i32, String)>> {
        Ok(tasks::declare(self.database(), self.registry().declaration()).await?)
    }

    /// Declares a task of this binary if the database does not know it, so that it can be invoked
    /// before any worker starts.
    pub(crate) async fn ensure_declared(&self, name: &str) -> Result<()> {
        self.migrate().await?;
        let Some(task) = self.registry().get(name) else {
            return Ok(());
        };
        if lock(&self.tasks.declared).contains(task.name) {
            return Ok(());
        }
        self.registry().check()?;
        // `declare_missing` leaves the declaration of a worker as it is.
        let declaration = declaration(std::iter::once(task));
        tasks::declare_missing(self.database(), RetryBudget::new(OUTAGE), &declaration).await?;
        lock(&self.tasks.declared).insert(task.name);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
