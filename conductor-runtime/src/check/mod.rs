//! Whether this binary fits a database: looked at before a deploy, and at the start of a worker.

mod declared;
mod finding;
mod left;
mod records;
mod rows;
mod waiting;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

pub use finding::{Change, Finding};

use crate::client::Conductor;
use crate::db::{self, Standing, applied, latest_version, migrations};
use crate::error::{Error, Result};
use crate::registry::Registry;

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// What a check has found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The schema version of the database; 0 where there is none.
    pub database_version: i32,
    /// The schema version that this binary brings.
    pub binary_version: i32,
    /// How many live executions were looked at.
    pub executions: u64,
    /// How many records and waits of theirs were looked at.
    pub records: u64,
    /// Whether these were all, or the check's bound was met before.
    pub complete: bool,
    /// What does not fit, or would change; empty where all is well.
    pub findings: Vec<Finding>,
}

/// A check that is being said; `.await` does it. See [`Conductor::check`].
#[must_use = "a check does nothing until it is awaited"]
pub struct Check<'c> {
    conductor: &'c Conductor,
    bound: Bound,
    progress: Box<dyn FnMut(u64) + Send + 'c>,
}

/// Where a check ends, whatever there is.
#[derive(Debug, Clone, Copy)]
struct Bound {
    executions: u64,
    until: Option<Instant>,
}

impl Bound {
    fn is_over(self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

impl Conductor {
    /// Looks whether this binary fits the database, and changes nothing there: nothing is migrated,
    /// declared or started, and the transaction is read-only. A role that may only read the tables of
    /// schema `conductor` is enough. Open the client with [`open`](Self::open), which leaves the
    /// schema as it is.
    ///
    /// What is looked at: the schema's version; live executions of tasks that this binary does not
    /// have, or that no living process serves; all their payloads, each read as its task would read it;
    /// their records, as far as their types are known outside of the handler (children's outputs,
    /// events, the kinds of all); schedules and subscriptions that a start of this binary would
    /// change; what workers have left for a build that can read it. What it cannot see before a worker has tried:
    /// whether a handler can read the values of its own `ctx.step` and `ctx.transaction`, whose types only
    /// the running handler knows.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// # async fn f() -> anyhow::Result<()> {
    /// let conductor = Conductor::open().await?;
    /// let report = conductor.check().await?;
    /// for finding in &report.findings {
    ///     println!("{finding}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The database cannot be reached, or may not be read.
    pub fn check(&self) -> Check<'_> {
        Check {
            conductor: self,
            bound: Bound {
                executions: u64::MAX,
                until: None,
            },
            progress: Box::new(|_| {}),
        }
    }
}

impl<'c> Check<'c> {
    /// Looks at no more than so many executions, the oldest first.
    pub fn at_most(mut self, executions: u64) -> Self {
        self.bound.executions = executions;
        self
    }

    /// Looks at executions no longer than this.
    pub fn within(mut self, time: Duration) -> Self {
        self.bound.until = Instant::now().checked_add(time);
        self
    }

    /// Is told now and then how many executions were looked at.
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + 'c) -> Self {
        self.progress = Box::new(progress);
        self
    }

    async fn look(mut self) -> Result<Report> {
        // What nothing can start with is told as a start tells it.
        Registry::global().check()?;
        self.conductor.find_way().await?;
        // Each statement sees the present: one snapshot for all would keep vacuum from its work for as
        // long as millions are read.
        let mode = "isolation level read committed read only";
        let mut tx = self.conductor.database().begin_as(mode).await?;
        let mut report = report(&mut tx, self.bound, &mut self.progress)
            .await
            .map_err(unreadable)?;
        rows::look(self.conductor, &mut tx, &mut report)
            .await
            .map_err(unreadable)?;
        tx.end().await?;
        Ok(report)
    }
}

async fn report(
    connection: &mut PgConnection,
    bound: Bound,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Report> {
    let found = applied(connection).await?;
    let mut report = Report {
        database_version: found.version(),
        binary_version: latest_version(),
        executions: 0,
        records: 0,
        complete: true,
        findings: Vec::new(),
    };
    let (database, binary) = (report.database_version, report.binary_version);
    match found.standing() {
        Standing::Current | Standing::NewerCompatible => {}
        Standing::Older => report.findings.push(Finding::SchemaOlder {
            database,
            binary,
            breaking: migrations()
                .iter()
                .any(|migration| migration.breaking && migration.id > database),
        }),
        standing => {
            report.findings.push(match standing {
                Standing::NewerBreaking(migration) => Finding::SchemaNewer { migration, binary },
                Standing::Changed(migration) => Finding::SchemaChanged { migration },
                _ => Finding::SchemaMissing { binary },
            });
            // What is in such a schema cannot be told.
            return Ok(report);
        }
    }
    waiting::look(connection, bound, &mut report).await?;
    records::look(connection, bound, progress, &mut report).await?;
    left::look(connection, &mut report).await?;
    declared::schedules(connection, &mut report).await?;
    declared::subscriptions(connection, &mut report).await?;
    Ok(report)
}

fn unreadable(error: Error) -> Error {
    match error {
        Error::Database(error) if db::has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            Error::Schema(format!(
                "the role of DATABASE_URL may not read the schema \"conductor\" ({error}).\n  grant usage on schema conductor to …; grant select on all tables in schema conductor to …"
            ))
        }
        other => other,
    }
}

/// At the start of a worker: what it cannot work with, among the oldest executions. A start that refuses
/// looks at more of them than one that only warns: nothing runs before it has looked, and what cannot be
/// read is left in place when it is claimed.
pub(crate) async fn at_start(conductor: &Conductor, refuses: bool) -> Result<Vec<Finding>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut findings = conductor
        .check()
        .at_most(if refuses { 10_000 } else { 1_000 })
        .within(PATIENCE)
        .await?
        .findings;
    // What it is about to change or to serve is no fault, nor is what others serve.
    findings.retain(|finding| {
        !finding.is_change()
            && !matches!(
                finding,
                Finding::UnknownTask { served: true, .. } | Finding::Unserved { .. }
            )
    });
    Ok(findings)
}

impl<'c> IntoFuture for Check<'c> {
    type Output = Result<Report>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.look())
    }
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}
