use std::future::{Future, IntoFuture};
use std::pin::Pin;

use conductor_postgres::store::schedules::{self, NewSchedule};
use conductor_schedule::{Cron, Missed, Overlap, Tz, zone};
use sqlx::PgConnection;

use super::invoke::checked;
use super::{Conductor, Untyped};
use crate::codec;
use crate::error::{Error, Result};
use crate::task::Task;

/// A builder for a dynamic schedule. Does nothing until awaited.
///
/// Once the call returns `Ok`, the schedule is committed and survives any crash.
#[must_use = "a schedule does nothing until it is awaited"]
pub struct Schedule<'c> {
    conductor: Result<&'c Conductor>,
    rule: Result<Rule>,
}

/// A builder for the removal of a dynamic schedule. Does nothing until awaited.
///
/// `.await` returns false if there is no such schedule.
#[must_use = "an unschedule does nothing until it is awaited"]
pub struct Unschedule<'c> {
    conductor: Result<&'c Conductor>,
    task: String,
    name: String,
}

/// A schedule as it is stored, validated before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    task: String,
    name: String,
    cron: Cron,
    payload: String,
    timezone: Tz,
    missed: Missed,
    overlap: Overlap,
}

impl Rule {
    pub(crate) fn new(task: &str, name: String, cron: &str, payload: String) -> Result<Self> {
        check_name(&name)?;
        let cron = Cron::parse(cron).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Self {
            task: task.to_owned(),
            name,
            cron,
            payload,
            timezone: Tz::UTC,
            missed: Missed::default(),
            overlap: Overlap::default(),
        })
    }

    pub(crate) fn set_timezone(&mut self, name: &str) -> Result<()> {
        self.timezone = zone(name).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(())
    }

    pub(crate) fn set_missed(&mut self, missed: Missed) {
        self.missed = missed;
    }

    pub(crate) fn set_overlap(&mut self, overlap: Overlap) {
        self.overlap = overlap;
    }

    pub(crate) fn task(&self) -> &str {
        &self.task
    }

    /// Returns an error if the rule has no future tick, by the database's clock.
    pub(crate) async fn refuse_past(&self, conductor: &Conductor) -> Result<()> {
        if !self.cron.has_years() {
            return Ok(());
        }
        let now = conductor.inspect().now().await?;
        (self.cron.refuse_past(now, self.timezone))
            .map_err(|error| Error::Invalid(error.to_string()))
    }

    pub(crate) async fn store(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let new = NewSchedule {
            task: &self.task,
            name: &self.name,
            cron: self.cron.as_str(),
            payload: &self.payload,
            timezone: self.timezone.name(),
            missed: self.missed.as_str(),
            overlap: self.overlap.as_str(),
        };
        schedules::store(connection, new).await
    }
}

/// Checks that a name is not empty, has at most 200 bytes and contains no control characters.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let refused = if name.is_empty() {
        "it is empty"
    } else if name.len() > 200 {
        "it is longer than 200 bytes"
    } else if name.chars().any(char::is_control) {
        "it contains a control character"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!(
        "the schedule name {:?} cannot be used: {refused}",
        name.chars().take(40).collect::<String>()
    )))
}

impl<'c> Schedule<'c> {
    pub(crate) fn new<T: Task>(
        conductor: Result<&'c Conductor>,
        name: String,
        cron: String,
        payload: &T::Payload,
    ) -> Self {
        let rule = codec::encode_payload::<T>(payload)
            .and_then(|payload| Rule::new(T::NAME, name, &cron, payload));
        Self { conductor, rule }
    }

    /// Sets the time zone of the rule, such as `Europe/Berlin`. Default: `UTC`.
    pub fn timezone(mut self, name: &str) -> Self {
        if let Ok(rule) = &mut self.rule
            && let Err(error) = rule.set_timezone(name)
        {
            self.rule = Err(error);
        }
        self
    }

    /// Sets how to handle ticks that were due while no worker could run them.
    ///
    /// Default: one execution for all of them.
    pub fn missed(mut self, missed: Missed) -> Self {
        if let Ok(rule) = &mut self.rule {
            rule.set_missed(missed);
        }
        self
    }

    /// Sets what a tick does while the execution of the previous tick has not ended.
    ///
    /// Default: it creates its own execution all the same.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        if let Ok(rule) = &mut self.rule {
            rule.set_overlap(overlap);
        }
        self
    }
}

impl<'c> IntoFuture for Schedule<'c> {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (conductor, rule) = (self.conductor?, self.rule?);
            conductor.ensure_declared(&rule.task).await?;
            rule.refuse_past(conductor).await?;
            let mut session = conductor.database().session().await?;
            let stored = rule.store(&mut session).await;
            Ok(session.settle(stored).await?)
        })
    }
}

impl<'c> Unschedule<'c> {
    pub(crate) fn new(conductor: Result<&'c Conductor>, task: String, name: String) -> Self {
        Self {
            conductor,
            task,
            name,
        }
    }
}

impl<'c> IntoFuture for Unschedule<'c> {
    type Output = Result<bool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let conductor = self.conductor?;
            conductor.migrate().await?;
            // Postgres cannot store U+0000, so no schedule has this name.
            if check_name(&self.name).is_err() {
                return Ok(false);
            }
            let mut session = conductor.database().session().await?;
            let removed = schedules::remove(&mut session, &self.task, &self.name).await;
            Ok(session.settle(removed).await?)
        })
    }
}

impl<'c> Untyped<'c> {
    /// Creates a schedule by the task's name, from a payload that is already JSON.
    ///
    /// Works as [`Conductor::schedule`] does.
    ///
    /// # Errors
    /// - Those of [`invoke`](Self::invoke).
    /// - [`Error::Invalid`] if the name, the rule or an option is invalid.
    pub fn schedule(self, task: &str, name: &str, cron: &str, payload: &str) -> Schedule<'c> {
        let rule = checked(self.conductor.registry(), task, payload)
            .and_then(|_| Rule::new(task, name.to_owned(), cron, payload.to_owned()));
        Schedule {
            conductor: Ok(self.conductor),
            rule,
        }
    }

    /// Removes a schedule as [`Conductor::unschedule`] does, by the task's name.
    pub fn unschedule(self, task: &str, name: &str) -> Unschedule<'c> {
        Unschedule::new(Ok(self.conductor), task.to_owned(), name.to_owned())
    }
}
