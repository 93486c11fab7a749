//! What a handler receives, and the builders of its durable calls.
//!
//! The guide page is [`steps`](crate::guide::steps).

pub use conductor_runtime::context::{
    BatchContext, BatchItem, InvokeChild, InvokeChildren, Race, ScheduleStep, SettleChildren, Step,
    StepValue, TaskContext, TransactionStep, Tx, WaitForEvent, WaitForRow,
};
#[doc(hidden)]
pub use conductor_runtime::context::{RetryBody, StepBody, TransactionBody, TransactionResult};
