//! What a handler receives, and the builders of its durable calls.
//!
//! The guide page is [`steps`](crate::guide::steps).

#[doc(hidden)]
pub use conductor_runtime::context::TransactionBody;
pub use conductor_runtime::context::{
    BatchContext, BatchItem, InvokeChild, InvokeChildren, Race, ScheduleStep, SettleChildren, Step,
    TaskContext, Tx, WaitForEvent, WaitForRow,
};
