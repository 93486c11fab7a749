//! Names that stand in modules and can also be used at the root, as code from before the modules does.

pub use crate::client::{
    Cancel, Emit, EmitInTransaction, Invocation, Invoke, InvokeBatch, InvokeInTransaction, Invoked,
    MAX_JSON_BYTES, MAX_JSON_DEPTH, PointInTime,
};
pub use crate::context::{
    BatchItem, InvokeChild, InvokeChildren, Race, ScheduleStep, SettleChildren, Step, StepValue,
    TransactionStep, Tx, WaitForEvent, WaitForRow,
};
pub use crate::context::{RetryBody, StepBody, TransactionBody, TransactionResult};
pub use crate::error::{RetryVerdict, Verdict};
pub use crate::events::{
    EventDefinition, EventFields, Field, Filter as EventFilter, Operand, Ordered,
    SubscriptionDefinition,
};
pub use crate::inspect::{
    Affected, Astray, Awaited, Brief, Child, EventEffect, EventInfo, ExecutionInfo, FailedAttempt,
    Filter, LimitKey, Parent, Process, QueueInfo, Reason, RowFault, RowTriggerInfo, Runner,
    ScheduleInfo, StepInfo, StepKey, Story, Stuck, WaitInfo, Why,
};
pub use crate::orchestrator::{Builder, DEFAULT_CONCURRENCY, Handle};
pub use crate::rows::{FromRowChange, IntoRowFilter, NoRow, Row, RowOp, RowTriggerDefinition};
pub use crate::schedule::{
    CronDefinition, Missed, Overlap, Schedule, Unschedule, WindowDefinition,
};
pub use crate::tasks::{
    BatchDefinition, HandlerError, Keep, LimitDefinition, LimitKind, Output, Payload, RetryPolicy,
    TaskDefinition,
};
