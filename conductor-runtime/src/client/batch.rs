use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use conductor_postgres::{Database, OUTAGE, RetryBudget, message_length};
use sqlx::PgConnection;
use uuid::Uuid;

use super::insert::{Answer, MAX_ROWS, insert, insert_again};
use super::invocation::{Invocation, NewExecution};
use super::invoke::checked;
use super::{Conductor, Invoked, Untyped};
use crate::error::Result;
use crate::task::{PointInTime, Task};

/// A builder for a batch of invocations of one task, all or none. Does nothing until awaited.
///
/// `.await` creates the executions and returns their ids in the order of the items.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeBatch<'c> {
    conductor: &'c Conductor,
    rows: Result<Vec<NewExecution>>,
}

impl<'c> InvokeBatch<'c> {
    pub(super) fn new<T: Task>(
        conductor: &'c Conductor,
        items: impl Iterator<Item = Invocation<T>>,
    ) -> Self {
        Self {
            conductor,
            rows: items.map(|item| item.new).collect(),
        }
    }

    /// Sets the earliest start of every item; see [`Invoke::run_at`](super::Invoke::run_at).
    pub fn run_at(self, at: impl PointInTime) -> Self {
        let at = at.utc();
        self.set(|new| new.set_run_at(at))
    }

    /// Sets the time to wait first, for every item; see [`Invoke::delay`](super::Invoke::delay).
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|new| new.set_delay(delay))
    }

    /// Overrides the task's priority. Executions of higher priority are claimed first.
    pub fn priority(self, priority: i32) -> Self {
        self.set(|new| new.set_priority(priority))
    }

    /// Sets one key for all items, so that they create one execution.
    ///
    /// See [`Invoke::dedupe_key`](super::Invoke::dedupe_key). For a key per item, use
    /// [`invoke_batch_with`](super::Conductor::invoke_batch_with).
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.set(|new| new.set_dedupe_key(key.clone()))
    }

    /// Creates at most one execution per slot; see [`Invoke::throttle`](super::Invoke::throttle).
    pub fn throttle(self, slot: Duration) -> Self {
        self.set(|new| new.set_throttle(slot))
    }

    /// Runs once the calls are quiet; see [`Invoke::debounce`](super::Invoke::debounce).
    pub fn debounce(self, quiet: Duration) -> Self {
        self.set(|new| new.set_debounce(quiet))
    }

    /// Bounds a debounce; see [`Invoke::max_wait`](super::Invoke::max_wait).
    pub fn max_wait(self, most: Duration) -> Self {
        self.set(|new| new.set_max_wait(most))
    }

    /// Creates the executions, and returns for each item the id and the effect of the invoke.
    ///
    /// # Errors
    /// If an item cannot be stored or the database refuses a statement, none was created. If the
    /// connection breaks at the commit, it is not known whether all were created or none.
    pub async fn came_of(self) -> Result<Vec<(Uuid, Invoked)>> {
        let answers = self.answers().await?;
        Ok(answers.into_iter().map(|a| (a.id, a.came_of)).collect())
    }

    /// Creates the executions within the caller's transaction.
    ///
    /// They commit or roll back with it. Returns the ids in the order of the items.
    ///
    /// # Errors
    /// If an item cannot be stored, the transaction stays usable. After an error of the database it
    /// can only be rolled back.
    pub async fn in_transaction(self, connection: &mut PgConnection) -> Result<Vec<Uuid>> {
        let conductor = self.conductor;
        let (places, rows) = in_order_of_keys(self.complete()?);
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        conductor.ensure_declared(&first.task).await?;
        let answers = in_parts(connection, &rows, false).await?;
        Ok(in_order_of_items(places, answers)
            .map(|answer| answer.id)
            .collect())
    }

    fn set(mut self, change: impl Fn(&mut NewExecution) -> Result<()>) -> Self {
        self.rows = self.rows.and_then(|mut rows| {
            rows.iter_mut().try_for_each(change)?;
            Ok(rows)
        });
        self
    }

    fn complete(self) -> Result<Vec<NewExecution>> {
        self.rows?.into_iter().map(NewExecution::complete).collect()
    }

    async fn answers(self) -> Result<Vec<Answer>> {
        let conductor = self.conductor;
        let (places, rows) = in_order_of_keys(self.complete()?);
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        conductor.ensure_declared(&first.task).await?;
        let mut budget = RetryBudget::new(OUTAGE);
        let mut again = false;
        let answers = loop {
            match write(conductor.database(), &rows, again, &mut budget).await {
                Ok(answers) => break answers,
                Err(error) if budget.may_retry(&error).await => again = true,
                Err(error) => return Err(budget.over(error).into()),
            }
        };
        Ok(in_order_of_items(places, answers).collect())
    }
}

/// Writes all rows in one transaction, in several statements if one cannot hold them.
async fn write(
    database: &Database,
    rows: &[NewExecution],
    again: bool,
    budget: &mut RetryBudget,
) -> Result<Vec<Answer>, sqlx::Error> {
    if length(rows) == rows.len() {
        // A single statement needs no explicit transaction.
        return insert_again(database, rows, again, budget).await;
    }
    let mut tx = budget.connection(database).await?;
    tx.begin(database.begin_words("")).await?;
    let answers = in_parts(&mut tx, rows, again).await;
    tx.settle(answers).await
}

/// Returns how many of the first rows go into one statement.
fn length(rows: &[NewExecution]) -> usize {
    message_length(rows, MAX_ROWS, NewExecution::bytes)
}

async fn in_parts(
    connection: &mut PgConnection,
    rows: &[NewExecution],
    again: bool,
) -> Result<Vec<Answer>, sqlx::Error> {
    let mut answers = Vec::with_capacity(rows.len());
    let mut rest = rows;
    while !rest.is_empty() {
        let (part, others) = rest.split_at(length(rest));
        answers.extend(insert(&mut *connection, part, true, again).await?);
        rest = others;
    }
    Ok(answers)
}

/// Returns the rows, and for each its position in the batch. If there are keys, the rows are sorted
/// by them, so that two transactions of several statements cannot deadlock.
fn in_order_of_keys(rows: Vec<NewExecution>) -> (Vec<usize>, Vec<NewExecution>) {
    let mut placed: Vec<(usize, NewExecution)> = rows.into_iter().enumerate().collect();
    if placed.iter().any(|(_, row)| row.is_keyed()) {
        placed.sort_by(|(_, a), (_, b)| a.dedupe_key.cmp(&b.dedupe_key));
    }
    placed.into_iter().unzip()
}

fn in_order_of_items(places: Vec<usize>, answers: Vec<Answer>) -> impl Iterator<Item = Answer> {
    let mut sorted: Vec<(usize, Answer)> = places.into_iter().zip(answers).collect();
    sorted.sort_unstable_by_key(|(place, _)| *place);
    sorted.into_iter().map(|(_, answer)| answer)
}

impl<'c> IntoFuture for InvokeBatch<'c> {
    type Output = Result<Vec<Uuid>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answers = self.answers().await?;
            Ok(answers.into_iter().map(|answer| answer.id).collect())
        })
    }
}

impl<'c> Untyped<'c> {
    /// Creates one execution of the named task for each JSON payload, all or none.
    ///
    /// # Errors
    /// Those of [`invoke`](Self::invoke).
    pub fn invoke_batch<'a>(
        self,
        task: &str,
        payloads: impl IntoIterator<Item = &'a str>,
    ) -> InvokeBatch<'c> {
        InvokeBatch {
            conductor: self.conductor,
            rows: payloads
                .into_iter()
                .map(|payload| checked(self.conductor.registry(), task, payload))
                .collect(),
        }
    }
}
