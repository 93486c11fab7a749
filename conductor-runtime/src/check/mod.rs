//! Checks whether this binary fits a database, before a deploy and at the start of a worker.

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

use conductor_postgres::sqlstate::INSUFFICIENT_PRIVILEGE;
use conductor_postgres::{Standing, applied, has_code, latest_version, migrations};
use serde::Serialize;
use sqlx::PgConnection;

pub use finding::{Change, Finding};

use crate::client::Conductor;
use crate::error::{Error, Result};
use crate::registry::Registry;

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The schema version of the database; 0 if it has none.
    pub database_version: i32,
    /// The schema version of this binary.
    pub binary_version: i32,
    /// The number of live executions that were checked.
    pub executions: u64,
    /// The number of their records and waits that were checked.
    pub records: u64,
    /// Whether these were all, or a bound ended the check earlier.
    pub complete: bool,
    /// What does not fit or would change; empty if everything fits.
    pub findings: Vec<Finding>,
}

/// A builder for a check; see [`Conductor::check`]. Does nothing until awaited.
#[must_use = "a check does nothing until it is awaited"]
pub struct Check<'c> {
    conductor: &'c Conductor,
    bound: Bound,
    progress: Box<dyn FnMut(u64) + Send + 'c>,
}

/// A bound that ends a check.
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
    /// Checks whether this binary fits the database, without changing anything.
    ///
    /// Nothing is migrated, declared or started, and the transaction is read-only; a role that may only read the
    /// tables of schema `conductor` is enough. Open the client with [`open`](Self::open), which leaves the schema as
    /// it is.
    ///
    /// The check covers:
    /// - the schema's version;
    /// - live executions of tasks that this binary does not have, or that no living process serves;
    /// - all their payloads, each parsed as its task would parse it;
    /// - their records, as far as their types are known outside the handler: the outputs of children, events, and the
    ///   kinds of all;
    /// - schedules, subscriptions and row triggers that a start of this binary would change;
    /// - what workers have left for a build that can read it.
    ///
    /// It cannot tell whether a handler can read the values of its own `ctx.step` and `ctx.transaction`: only the
    /// running handler knows their types.
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
    /// - [`Error::Database`] if the database cannot be reached.
    /// - [`Error::Schema`] if the role may not read it.
    /// - [`Error::Refused`] if this binary's own declarations are invalid.
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
    /// Checks at most this many executions, the oldest first.
    pub fn at_most(mut self, executions: u64) -> Self {
        self.bound.executions = executions;
        self
    }

    /// Stops checking executions after this time.
    pub fn within(mut self, time: Duration) -> Self {
        self.bound.until = Instant::now().checked_add(time);
        self
    }

    /// Calls a function from time to time with the number of executions checked so far.
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + 'c) -> Self {
        self.progress = Box::new(progress);
        self
    }

    async fn look(mut self) -> Result<Report> {
        // Faults that prevent any start are returned as a start returns them.
        self.conductor.registry().check()?;
        self.conductor.find_way().await?;
        // Each statement has its own snapshot: one for the whole check would block vacuum while millions of rows are
        // read.
        let mode = "isolation level read committed read only";
        let mut tx = self.conductor.database().begin_as(mode).await?;
        let mut report = report(
            self.conductor.registry(),
            &mut tx,
            self.bound,
            &mut self.progress,
        )
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
    registry: &Registry,
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
            // The contents of such a schema cannot be interpreted.
            return Ok(report);
        }
    }
    waiting::look(registry, connection, bound, &mut report).await?;
    records::look(registry, connection, bound, progress, &mut report).await?;
    left::look(registry, connection, &mut report).await?;
    declared::schedules(registry, connection, &mut report).await?;
    declared::subscriptions(registry, connection, &mut report).await?;
    Ok(report)
}

fn unreadable(error: Error) -> Error {
    match error {
        Error::Database(error) if has_code(&error, INSUFFICIENT_PRIVILEGE) => {
            Error::Schema(format!(
                "the role of DATABASE_URL may not read the schema \"conductor\" ({error}).\n  grant usage on schema conductor to …; grant select on all tables in schema conductor to …"
            ))
        }
        other => other,
    }
}

/// Returns what this binary cannot work with, among the oldest executions, at the start of a worker. A strict start
/// checks more of them, because nothing runs before the check has ended; otherwise, what cannot be read is left in
/// place when it is claimed.
pub(crate) async fn at_start(conductor: &Conductor, refuses: bool) -> Result<Vec<Finding>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut findings = conductor
        .check()
        .at_most(if refuses { 10_000 } else { 1_000 })
        .within(PATIENCE)
        .await?
        .findings;
    // What the start is about to change or serve, or what others serve, is not a fault. What a handler did in an
    // earlier run is told when it happens.
    findings.retain(|finding| {
        !finding.is_change()
            && !matches!(
                finding,
                Finding::UnknownTask { served: true, .. }
                    | Finding::Unserved { .. }
                    | Finding::NewInput { .. }
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
