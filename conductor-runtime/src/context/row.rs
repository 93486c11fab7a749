use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::TaskContext;
use super::block::Block;
use super::input::Input;
use super::lazy::Lazy;
use super::memo::{Awaited, Met, Recorded, Stands, Wait, Wake, Wanted};
use crate::codec;
use crate::error::{Error, Result, too_long};
use crate::row::{self, Catalogue, IntoRowFilter, Row, RowChange, RowOp};
use crate::unreadable::{Unreadable, read};
use crate::verdict::heard_own;

const KIND: &str = "row";

/// A builder for a wait for a row change, and its future. Does nothing until awaited.
///
/// `.await` returns the change.
#[must_use = "a wait does nothing until it is awaited"]
pub struct WaitForRow<'c, R> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options<'c>, Result<RowChange<R>>>,
    of: PhantomData<fn() -> R>,
}

struct Options<'c> {
    key: String,
    met: Met,
    wanted: Wanted<'c>,
    op: RowOp,
    table: String,
    columns: Option<Vec<String>>,
    filter: Option<serde_json::Value>,
    timeout: Option<Duration>,
}

impl TaskContext {
    /// Waits until a row is inserted into a table. The worker's slot is free meanwhile.
    ///
    /// Configure it with `.when(…)` and `.timeout(…)`, then `.await` it. The wait sees every matching row that was
    /// committed since the execution was created or, if that is later, since the table has its trigger, which the
    /// first wait for the table installs. Further waits of the same execution return the rows that follow, each once,
    /// in the order in which their transactions were seen to have committed.
    ///
    /// The change is recorded, so a replay returns the same one. A wait that is registered survives any crash.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use conductor::Field;
    /// # use std::time::{Duration, Instant};
    /// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    /// struct User { id: i64, email: String }
    /// const EMAIL: Field<User, String> = Field::new(&["email"]);
    ///
    /// #[task]
    /// async fn invite(ctx: &TaskContext, email: String) -> anyhow::Result<Option<i64>> {
    ///     let joined = ctx
    ///         .wait_for_insert::<User>("joined", "public.users")
    ///         .when(EMAIL.eq(email))
    ///         .timeout(Duration::from_secs(7 * 24 * 60 * 60))
    ///         .await?;
    ///     Ok(joined.new.map(|user| user.id))
    /// }
    /// ```
    ///
    /// # Errors
    /// - [`Error::NoRow`] if none came within the timeout; this is recorded as well.
    /// - [`Error::Table`], which is permanent, if the table or a column does not exist or the trigger may not be
    ///   created.
    /// - [`Error::Locked`] if the table is locked for so long that its trigger cannot be created.
    pub fn wait_for_insert<R: Row>(
        &self,
        key: impl Into<String>,
        table: impl Into<String>,
    ) -> WaitForRow<'_, R> {
        self.wait_for_row(key.into(), RowOp::Insert, table.into())
    }

    /// Waits until a row of a table is updated; see [`wait_for_insert`](Self::wait_for_insert).
    ///
    /// `.columns(…)` restricts the wait to updates that change one of these columns.
    pub fn wait_for_update<R: Row>(
        &self,
        key: impl Into<String>,
        table: impl Into<String>,
    ) -> WaitForRow<'_, R> {
        self.wait_for_row(key.into(), RowOp::Update, table.into())
    }

    /// Waits until a row of a table is deleted; see [`wait_for_insert`](Self::wait_for_insert).
    pub fn wait_for_delete<R: Row>(
        &self,
        key: impl Into<String>,
        table: impl Into<String>,
    ) -> WaitForRow<'_, R> {
        self.wait_for_row(key.into(), RowOp::Delete, table.into())
    }

    fn wait_for_row<R: Row>(&self, key: String, op: RowOp, table: String) -> WaitForRow<'_, R> {
        WaitForRow {
            ctx: self,
            lazy: Lazy::new(Options {
                met: self.memo.meet(&key, KIND),
                wanted: Wanted::new(&self.memo, &key),
                key,
                op,
                table,
                columns: None,
                filter: None,
                timeout: None,
            }),
            of: PhantomData,
        }
    }

    /// Makes the table's trigger write these changes to the event log, and returns the name of their event.
    async fn watch<R: Row>(&self, options: &Options<'_>) -> Result<String> {
        let durable = self.durable()?;
        let database = durable.conductor.database();
        let refuse = |reason: String| {
            Error::Table(format!(
                "the wait {:?} for an {} of {:?}: {reason}",
                options.key, options.op, options.table
            ))
        };
        let row = std::any::type_name::<R>();
        let columns = row::columns_of(&codec::schema_of::<R>().to_value())
            .map_err(|reason| refuse(format!("the row {row} {reason}")))?;
        if let Some(fault) = row::unread(options.filter.as_ref(), &columns, row) {
            return Err(refuse(fault));
        }
        let what = format!(
            "{} {:?} {columns:?} {:?}",
            options.op, options.table, options.columns
        );
        if let Some(event) = durable.conductor.watched(&what) {
            return Ok(event);
        }
        let table = Catalogue::new(database)
            .table(&options.table)
            .await?
            .map_err(refuse)?;
        let missing =
            (columns.iter()).find_map(|column| table.column_fault(column, &format!("{row} reads")));
        let changed = options.columns.as_deref();
        let unchanged = (changed.unwrap_or_default().iter())
            .find_map(|column| table.column_fault(column, "`columns` names"));
        if let Some(fault) = missing.or(unchanged) {
            return Err(refuse(fault));
        }
        let event =
            row::watch(database, &table, options.op, &columns, changed, durable.ddl).await?;
        durable.conductor.note_watched(what, &event);
        Ok(event)
    }
}

impl<R: Row> WaitForRow<'_, R> {
    /// Waits only for updates that change the value of one of these columns.
    ///
    /// They need not be fields of `R`.
    pub fn columns<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.lazy.change(|options| {
            let mut columns: Vec<String> = columns.into_iter().map(Into::into).collect();
            columns.sort();
            columns.dedup();
            options.columns = Some(columns);
        });
        self
    }

    /// Waits only for changes that match the filter. Several filters are combined with AND.
    ///
    /// A filter on the row applies to the new row, or, for a delete, to the old one. For filters on the change, use
    /// [`Filter::on_old`](crate::event::Filter::on_old) and [`Filter::on_new`](crate::event::Filter::on_new).
    pub fn when(mut self, filter: impl IntoRowFilter<R>) -> Self {
        self.lazy.change(|options| {
            let filter = filter.row_filter_json(options.op);
            options.filter = Some(match options.filter.take() {
                Some(first) => serde_json::json!({"op": "and", "of": [first, filter]}),
                None => filter,
            });
        });
        self
    }

    /// Limits how long to wait, by the database's clock. Default: no limit.
    ///
    /// The time counts from when the handler first waits.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.lazy.change(|options| options.timeout = Some(timeout));
        self
    }
}

impl<R> Unpin for WaitForRow<'_, R> {}

impl<R: Row> Future for WaitForRow<'_, R> {
    type Output = Result<RowChange<R>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |mut options| async move {
            let given = serde_json::json!([options.table, options.columns, options.filter]);
            let input = Input::of(options.op.as_str(), &given.to_string());
            ctx.compare(&options.key, input);
            let met = std::mem::replace(&mut options.met, Ok(None));
            if let Some(recorded) = met? {
                options.wanted.had();
                return came_to(ctx, options, &recorded).await;
            }
            if let Some(error) = options.timeout.and_then(too_long) {
                return Err(error);
            }
            if options.columns.is_some() && options.op != RowOp::Update {
                return Err(Error::Invalid(format!(
                    "the wait {:?} is for an {}, which changes no columns: leave out `.columns(…)`",
                    options.key, options.op
                )));
            }
            ctx.durable()?;
            ctx.go_on().await?;
            let name = {
                let _busy = ctx.memo.busy();
                let watched = ctx.watch::<R>(&options).await;
                watched.inspect_err(heard_own)?
            };
            let wait = Wait {
                kind: KIND,
                group: options.key.clone(),
                wake: options.timeout.map(Wake::In),
                child: None,
                event: Some(Awaited {
                    name: name.into(),
                    filter: options.filter.as_ref().map(|filter| filter.to_string()),
                }),
                since: Instant::now(),
                input,
                stands: Stands::No,
            };
            let waits = vec![(options.key.clone(), wait)];
            let came = Block::on(&ctx.memo, waits).await;
            options.wanted.had();
            match came.first() {
                Some(recorded) => came_to(ctx, options, recorded).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// The recorded result of a wait; without an event if no change came in time.
#[derive(Deserialize)]
struct Came<'r> {
    event: Option<Uuid>,
    #[serde(borrow)]
    payload: Option<&'r RawValue>,
}

async fn came_to<R: Row>(
    ctx: &TaskContext,
    options: Options<'_>,
    recorded: &Recorded,
) -> Result<RowChange<R>> {
    let Options { key, op, table, .. } = options;
    let what = format!("the {op} of {table:?} that came for the wait {key:?}");
    let came: Came<'_> = match read(recorded.get()) {
        Ok(came) => came,
        Err(error) => {
            return ctx.leave(Unreadable::new(what, error)).await;
        }
    };
    if came.event.is_none() {
        return Err(Error::NoRow { table, op, key });
    }
    let json = came.payload.map_or("null", RawValue::get);
    match read(json) {
        Ok(change) => Ok(change),
        Err(error) => ctx.leave(Unreadable::new(what, error)).await,
    }
}
