use std::any::{TypeId, type_name};
use std::fmt;

use serde_json::Value;

use super::{FromRowChange, Row, RowChange, RowOp, TableName};
use crate::codec;
use crate::task::Task;
use crate::unreadable::{Unreadable, read};
use crate::verdict::permanent;

/// Changes of a table's rows that start executions of a task, declared with `on_insert`, `on_update` or
/// `on_delete`.
#[derive(Clone, Copy)]
pub struct RowTriggerDefinition {
    /// What happens to the rows.
    pub op: RowOp,
    /// The table, as it is written in the code.
    pub table: &'static str,
    /// An update counts where one of these columns changed its value; any where there is none.
    pub columns: &'static [&'static str],
    /// Which changes; all where there is none.
    pub filter: Option<fn() -> Value>,
    /// Makes the payload's JSON of the change's.
    pub convert: fn(&str) -> anyhow::Result<String>,
    /// Whether the change is the task's payload, as it is.
    pub(crate) is_payload: fn() -> bool,
    pub(crate) schema: fn() -> schemars::Schema,
    pub(crate) row: fn() -> &'static str,
}

impl RowTriggerDefinition {
    /// Every change of this kind.
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

    /// Only updates that change one of these columns.
    #[must_use]
    pub const fn columns(mut self, columns: &'static [&'static str]) -> Self {
        self.columns = columns;
        self
    }

    /// Only those that a filter lets through: a function that gives [`crate::event::Filter::to_json`].
    #[must_use]
    pub const fn when(mut self, filter: fn() -> Value) -> Self {
        self.filter = Some(filter);
        self
    }

    /// The one that makes the payload of a change; by the operation alone where it is the only one
    /// and the table was renamed.
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

    /// The filter's JSON.
    pub(crate) fn filter_json(&self) -> Option<Value> {
        self.filter.map(|filter| filter())
    }
}

/// `User` of `shop::model::User`.
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
