//! Row changes: inserts, updates and deletes that start executions and end waits.

mod catalogue;
mod change;
mod definition;
mod filter;
mod install;
mod state;
mod table;

pub(crate) use catalogue::{Catalogue, columns_of};
pub use change::{FromRowChange, NoRow, Row, RowChange, RowOp, RowPayload};
pub use definition::RowTriggerDefinition;
pub use filter::IntoRowFilter;
pub(crate) use install::{install, missing, remove, watch};
pub use state::{RowFault, RowTriggerInfo};
pub(crate) use state::{Rule, rules, unread};
pub(crate) use table::TableName;
