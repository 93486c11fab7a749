use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::Field;

/// A row that was inserted, updated or deleted: a payload, and the result of a wait.
///
/// `R` is a struct with one field for each column that is read, under the names that serde uses.
///
/// ```
/// use conductor::prelude::*;
///
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// struct User { id: i64, email: String }
///
/// #[task(on_insert("public.users"), on_delete("public.users"))]
/// async fn audit(ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<()> {
///     match (&payload.old, &payload.new) {
///         (None, Some(user)) => println!("{} has come", user.email),
///         _ => println!("{}", payload.op),
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowChange<R> {
    /// The operation.
    pub op: RowOp,
    /// The row before; `None` for an insert.
    pub old: Option<R>,
    /// The row after; `None` for a delete.
    pub new: Option<R>,
}

impl<R> RowChange<R> {
    /// The row before, for filters.
    pub const OLD: Field<Self, R> = Field::new(&["old"]);
    /// The row after, for filters.
    pub const NEW: Field<Self, R> = Field::new(&["new"]);

    /// Returns the latest version of the row: the new one, or the old one if it was deleted.
    pub fn row(&self) -> Option<&R> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Returns the same as [`row`](Self::row), by value.
    pub fn into_row(self) -> Option<R> {
        self.new.or(self.old)
    }
}

/// The operation on a row.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RowOp {
    /// The row was inserted.
    Insert,
    /// The row was updated.
    Update,
    /// The row was deleted.
    Delete,
}

impl RowOp {
    /// Returns the name as in SQL: `insert`, `update` or `delete`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    pub(crate) fn read(name: &str) -> Option<Self> {
        [Self::Insert, Self::Update, Self::Delete]
            .into_iter()
            .find(|op| op.as_str() == name)
    }
}

impl fmt::Display for RowOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A type that a row can be read into: owned, (de)serializable, with a JSON Schema.
pub trait Row: Serialize + DeserializeOwned + JsonSchema + Send + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Row for T {}

/// The row of a task that reads no columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NoRow {}

/// A payload that names the type of its row.
#[diagnostic::on_unimplemented(
    message = "this task is started by row changes, and its payload `{Self}` does not say what a row is",
    label = "says nothing of the row",
    note = "take `payload: RowChange<User>`, or name the row with `row = User` and write `impl From<RowChange<User>> for {Self}`"
)]
pub trait RowPayload {
    /// The type of the row.
    type Row: Row;
}

impl<R: Row> RowPayload for RowChange<R> {
    type Row = R;
}

impl RowPayload for () {
    type Row = NoRow;
}

impl<R> From<RowChange<R>> for () {
    fn from(_: RowChange<R>) {}
}

/// A payload that can be made from a row change; implemented through `From`.
#[diagnostic::on_unimplemented(
    message = "this task is started by changes of rows `{R}`, so its payload `{Self}` must come from them",
    label = "comes from no `RowChange<{R}>`",
    note = "write `impl From<RowChange<{R}>> for {Self}`, or take `payload: RowChange<{R}>`"
)]
pub trait FromRowChange<R> {
    /// Creates the payload.
    fn from_row_change(change: RowChange<R>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<R, T: From<RowChange<R>>> FromRowChange<R> for T {
    fn from_row_change(change: RowChange<R>) -> Self {
        Self::from(change)
    }
}
