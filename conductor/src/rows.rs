//! Row changes, which start tasks and end waits.
//!
//! The guide page is [`row_changes`](crate::guide::row_changes).

pub use conductor_runtime::row::{
    FromRowChange, IntoRowFilter, NoRow, Row, RowChange, RowOp, RowTriggerDefinition,
};
