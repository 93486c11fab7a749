use std::future::{Future, IntoFuture};
use std::pin::Pin;

use conductor_schedule::{Cron, Missed, Overlap, Tz, zone};
use sqlx::PgConnection;

use super::Conductor;
use super::invoke::checked;
use crate::codec;
use crate::error::{Error, Result};
use crate::task::Task;

/// A schedule that is being said; `.await` makes it.
#[must_use = "a schedule does nothing until it is awaited"]
pub struct Schedule<'c> {
    conductor: Result<&'c Conductor>,
    rule: Result<Rule>,
}

/// The end of a schedule that is being said; `.await` removes it.
#[must_use = "an unschedule does nothing until it is awaited"]
pub struct Unschedule<'c> {
    conductor: Result<&'c Conductor>,
    task: String,
    name: String,
}

/// A schedule as it is stored, checked before it is sent.
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

    /// Refuses a rule that has no tick to come, by the database's clock.
    pub(crate) async fn refuse_past(&self, conductor: &Conductor) -> Result<()> {
        if !self.cron.has_years() {
            return Ok(());
        }
        let now = conductor.now().await?;
        (self.cron.refuse_past(now, self.timezone))
            .map_err(|error| Error::Invalid(error.to_string()))
    }

    pub(crate) async fn store(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("select conductor.schedule($1, $2, $3, $4::json, $5, $6, $7)")
            .bind(&self.task)
            .bind(&self.name)
            .bind(self.cron.as_str())
            .bind(&self.payload)
            .bind(self.timezone.name())
            .bind(self.missed.as_str())
            .bind(self.overlap.as_str())
            .execute(connection)
            .await
            .map(drop)
    }
}

pub(crate) async fn remove(
    connection: &mut PgConnection,
    task: &str,
    name: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select conductor.unschedule($1, $2)")
        .bind(task)
        .bind(name)
        .fetch_one(connection)
        .await
}

/// A name that the database stores: as long as it allows, and nothing that hides in a terminal.
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

    /// The zone whose clock the rule means, such as `Europe/Berlin`. Default `UTC`.
    pub fn timezone(mut self, name: &str) -> Self {
        if let Ok(rule) = &mut self.rule
            && let Err(error) = rule.set_timezone(name)
        {
            self.rule = Err(error);
        }
        self
    }

    /// What becomes of ticks that came while nothing could run them. Default: one execution makes
    /// up for all.
    pub fn missed(mut self, missed: Missed) -> Self {
        if let Ok(rule) = &mut self.rule {
            rule.set_missed(missed);
        }
        self
    }

    /// What a tick does while the execution of the tick before has not ended. Default: it makes its
    /// own all the same.
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
            // Postgres stores no NUL, so there is no such schedule.
            if check_name(&self.name).is_err() {
                return Ok(false);
            }
            let mut session = conductor.database().session().await?;
            let removed = remove(&mut session, &self.task, &self.name).await;
            Ok(session.settle(removed).await?)
        })
    }
}

impl Conductor {
    /// As [`schedule`](Self::schedule), by the task's name and with a payload that is JSON already,
    /// as the command line does.
    ///
    /// # Errors
    /// As [`invoke_json`](Self::invoke_json).
    pub async fn schedule_json(
        &self,
        task: &str,
        name: &str,
        cron: &str,
        payload: &str,
        say: impl FnOnce(Schedule<'_>) -> Schedule<'_> + Send,
    ) -> Result<()> {
        checked(task, payload)?;
        let rule = Rule::new(task, name.to_owned(), cron, payload.to_owned());
        say(Schedule {
            conductor: Ok(self),
            rule,
        })
        .await
    }

    /// As [`unschedule`](Self::unschedule), by the task's name.
    pub async fn unschedule_named(&self, task: &str, name: &str) -> Result<bool> {
        Unschedule::new(Ok(self), task.to_owned(), name.to_owned()).await
    }
}
