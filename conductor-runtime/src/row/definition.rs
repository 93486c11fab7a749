use std::any::{TypeId, type_name};
use std::fmt;

use serde_json::Value;

use super::{FromRowChange, Row, RowChange, RowOp, TableName};
use crate::codec;
use crate::task::Task;
use crate::unreadable::{Unreadable, read};
use crate::verdict::permanent;

/// Row changes that start a task, declared with `on_insert`, `on_update` or `on_delete`.
#[derive(Clone, Copy)]
pub struct RowTriggerDefinition {
    /// The operation.
    pub op: RowOp,
    /// The table's name, as it is written in the code.
    pub table: &'static str,
    /// Columns of which an update must change at least one; any update counts if empty.
    pub columns: &'static [&'static str],
    /// Which changes start the task; all if `None`.
    pub filter: Option<fn() -> Value>,
    /// Converts the change's JSON to the payload's.
    pub convert: fn(&str) -> anyhow::Result<String>,
    /// Whether the payload is the change itself.
    pub(crate) is_payload: fn() -> bool,
    pub(crate) schema: fn() -> schemars::Schema,
    pub(crate) row: fn() -> &'static str,
}

impl RowTriggerDefinition {
    /// Declares every change of this operation.
    pub const fn of<T: Task, R: Row>(op: RowOp, table: &'static str) -> Self
    where
        T::Payload: FromRowChange<R>,
    {
        Self {
            op,
            table,
            columns: &[],
            filter: None,
            convert: |json| {
                let change: RowChange<R> = read(json).map_err(|reason| {
                    Unreadable::new(format!("the row as a {}", short(type_name::<R>())), reason)
                })?;
                codec::encode_payload::<T>(&T::Payload::from_row_change(change))
                    .map_err(|error| permanent(error.into()))
            },
            is_payload: || TypeId::of::<RowChange<R>>() == TypeId::of::<T::Payload>(),
            schema: codec::schema_of::<R>,
            row: || short(type_name::<R>()),
        }
    }

    /// Restricts it to updates that change one of these columns.
    #[must_use]
    pub const fn columns(mut self, columns: &'static [&'static str]) -> Self {
        self.columns = columns;
        self
    }

    /// Restricts it to changes that match a filter; the function returns [`crate::event::Filter::to_json`].
    #[must_use]
    pub const fn when(mut self, filter: fn() -> Value) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Returns the definition that converts a change. If no table name matches, for example after a rename, uses the
    /// only definition of the operation, if there is one.
    pub(crate) fn of_change<'d>(
        definitions: &'d [Self],
        op: RowOp,
        table: &str,
    ) -> Option<&'d Self> {
        let exact = TableName::parse(table).ok()?;
        let mut of_op = definitions.iter().filter(|definition| definition.op == op);
        let (first, more) = (of_op.next()?, of_op.next().is_some());
        let mut of_op = definitions.iter().filter(|definition| definition.op == op);
        of_op
            .find(|d| TableName::parse(d.table).is_ok_and(|name| name.may_be(&exact)))
            .or((!more).then_some(first))
    }

    /// Returns the filter's JSON.
    pub(crate) fn filter_json(&self) -> Option<Value> {
        self.filter.map(|filter| filter())
    }
}

/// Returns `User` for `shop::model::User`.
pub(super) fn short(name: &'static str) -> &'static str {
    let path = name.split('<').next().unwrap_or(name);
    path.rsplit("::").next().unwrap_or(path)
}

impl fmt::Debug for RowTriggerDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowTriggerDefinition")
            .field("op", &self.op)
            .field("table", &self.table)
            .field("columns", &self.columns)
            .field("filter", &self.filter_json())
            .finish_non_exhaustive()
    }
}
