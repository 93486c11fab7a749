use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::Field;

/// A row that was inserted, updated or deleted; the payload of tasks that row changes start, and what
/// a wait for one gives.
///
/// `R` is a struct with a field for each column that is wanted, under the names that serde gives them.
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
    /// What happened to the row.
    pub op: RowOp,
    /// The row before; none of an insert.
    pub old: Option<R>,
    /// The row after; none of a delete.
    pub new: Option<R>,
}

impl<R> RowChange<R> {
    /// The row before, for filters.
    pub const OLD: Field<Self, R> = Field::new(&["old"]);
    /// The row after, for filters.
    pub const NEW: Field<Self, R> = Field::new(&["new"]);

    /// The row as it is now, or as it was last: the new one, else the old one.
    pub fn row(&self) -> Option<&R> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// As [`row`](Self::row), by value.
    pub fn into_row(self) -> Option<R> {
        self.new.or(self.old)
    }
}

/// What happened to a row.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RowOp {
    /// It was inserted.
    Insert,
    /// It was updated.
    Update,
    /// It was deleted.
    Delete,
}

impl RowOp {
    /// As in SQL: `insert`, `update` or `delete`.
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

/// Everything that a row can be read into: owned, (de)serializable, with a JSON Schema.
pub trait Row: Serialize + DeserializeOwned + JsonSchema + Send + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Row for T {}

/// The row of a task that wants none of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NoRow {}

/// A payload that says which row it wants.
#[diagnostic::on_unimplemented(
    message = "this task is started by row changes, and its payload `{Self}` does not say what a row is",
    label = "says nothing of the row",
    note = "take `payload: RowChange<User>`, or name the row with `row = User` and write `impl From<RowChange<User>> for {Self}`"
)]
pub trait RowPayload {
    /// The row.
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

/// What can be made of a row change; implemented through `From`.
#[diagnostic::on_unimplemented(
    message = "this task is started by changes of rows `{R}`, so its payload `{Self}` must come from them",
    label = "comes from no `RowChange<{R}>`",
    note = "write `impl From<RowChange<{R}>> for {Self}`, or take `payload: RowChange<{R}>`"
)]
pub trait FromRowChange<R> {
    /// Makes the payload.
    fn from_row_change(change: RowChange<R>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<R, T: From<RowChange<R>>> FromRowChange<R> for T {
    fn from_row_change(change: RowChange<R>) -> Self {
        Self::from(change)
    }
}
