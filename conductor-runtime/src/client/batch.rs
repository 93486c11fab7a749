use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::insert::{Answer, MAX_ROWS, insert, insert_again};
use super::invocation::{Invocation, NewExecution};
use super::invoke::checked;
use super::{Conductor, Invoked};
use crate::db::{Database, OUTAGE, Patience, message_length};
use crate::error::Result;
use crate::task::{PointInTime, Task};

/// Many invokes of one task, all or none; `.await` makes the executions and gives their ids.
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

    /// None of them before this instant, as [`Invoke::run_at`](super::Invoke::run_at).
    pub fn run_at(self, at: impl PointInTime) -> Self {
        let at = at.utc();
        self.set(|new| new.set_run_at(at))
    }

    /// None of them before this long from now, as [`Invoke::delay`](super::Invoke::delay).
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|new| new.set_delay(delay))
    }

    /// Instead of the task's own priority; higher is claimed first.
    pub fn priority(self, priority: i32) -> Self {
        self.set(|new| new.set_priority(priority))
    }

    /// One key for all, as [`Invoke::dedupe_key`](super::Invoke::dedupe_key): they come to one
    /// execution. For a key each, see
    /// [`invoke_batch_with`](super::Conductor::invoke_batch_with).
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.set(|new| new.set_dedupe_key(key.clone()))
    }

    /// As [`Invoke::throttle`](super::Invoke::throttle).
    pub fn throttle(self, slot: Duration) -> Self {
        self.set(|new| new.set_throttle(slot))
    }

    /// As [`Invoke::debounce`](super::Invoke::debounce).
    pub fn debounce(self, quiet: Duration) -> Self {
        self.set(|new| new.set_debounce(quiet))
    }

    /// As [`Invoke::max_wait`](super::Invoke::max_wait).
    pub fn max_wait(self, most: Duration) -> Self {
        self.set(|new| new.set_max_wait(most))
    }

    /// Makes the executions; gives with each id what came of its item.
    ///
    /// # Errors
    /// An item that cannot be stored, or the database's; then none of them was made. Where the
    /// connection breaks at the commit, it is not known whether all were made or none.
    pub async fn came_of(self) -> Result<Vec<(Uuid, Invoked)>> {
        let answers = self.answers().await?;
        Ok(answers.into_iter().map(|a| (a.id, a.came_of)).collect())
    }

    /// Makes the executions in a transaction of the caller's: they come to be with its commit, and
    /// vanish with its rollback. Gives the ids in the order of the items.
    ///
    /// # Errors
    /// An item that cannot be stored, or the database's; after the latter the transaction can only
    /// be rolled back.
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
        let mut patience = Patience::new(OUTAGE);
        let mut again = false;
        let answers = loop {
            match write(conductor.database(), &rows, again, &mut patience).await {
                Ok(answers) => break answers,
                Err(error) if patience.again(&error).await => again = true,
                Err(error) => return Err(patience.over(error)),
            }
        };
        Ok(in_order_of_items(places, answers).collect())
    }
}

/// In one transaction, a statement for each few thousand.
async fn write(
    database: &Database,
    rows: &[NewExecution],
    again: bool,
    patience: &mut Patience,
) -> Result<Vec<Answer>, sqlx::Error> {
    if length(rows) == rows.len() {
        // A statement is a transaction of its own.
        return insert_again(database, rows, again, patience).await;
    }
    let mut tx = patience.connection(database).await?;
    tx.begin(database.begin_words("")).await?;
    let answers = in_parts(&mut tx, rows, again).await;
    tx.settle(answers).await
}

/// How many of the first rows go into one statement.
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

/// The rows with the place that each had. Where there are keys, in their order, so that two
/// transactions of several statements do not wait for one another in a circle.
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

impl Conductor {
    /// Makes an execution of the named task for each payload, all or none; the payloads are JSON
    /// already.
    ///
    /// # Errors
    /// As [`invoke_json`](Self::invoke_json).
    pub fn invoke_batch_json<'a>(
        &self,
        task: &str,
        payloads: impl IntoIterator<Item = &'a str>,
    ) -> InvokeBatch<'_> {
        InvokeBatch {
            conductor: self,
            rows: payloads
                .into_iter()
                .map(|payload| checked(task, payload))
                .collect(),
        }
    }
}
