//! Durable tasks for Rust on nothing but Postgres.

#[cfg(feature = "testing")]
pub use conductor_macros::test;
pub use conductor_macros::{EventFields, event, task};
pub use conductor_runtime::check;
pub use conductor_runtime::client::{
    Astray, Awaited, Brief, Cancel, Child, Conductor, Execution, ExecutionInfo, FailedAttempt,
    Filter, Invocation, Invoke, InvokeBatch, InvokeInTransaction, Invoked, LimitKey, Parent,
    Process, QueueInfo, Reason, Runner, Schedule, ScheduleInfo, Status, StepInfo, StepKey, Story,
    Stuck, Unschedule, WaitInfo, Why,
};
pub use conductor_runtime::codec::{MAX_JSON_BYTES, MAX_JSON_DEPTH};
#[doc(hidden)]
pub use conductor_runtime::context::TransactionBody;
pub use conductor_runtime::context::{
    BatchContext, BatchItem, InvokeChild, InvokeChildren, Race, ScheduleStep, SettleChildren, Step,
    TaskContext, Tx, WaitForEvent, WaitForRow,
};
#[cfg(feature = "embedded")]
pub use conductor_runtime::embedded;
pub use conductor_runtime::error::{Error, Result};
pub use conductor_runtime::event::{
    Affected, Emit, EmitInTransaction, Event, EventDefinition, EventEffect, EventFields, EventInfo,
    Field, Filter as EventFilter, Operand, Ordered, SubscriptionDefinition,
};
pub use conductor_runtime::failure::Failure;
pub use conductor_runtime::orchestrator::{
    Builder, DEFAULT_CONCURRENCY, Handle, Orchestrator, Worker,
};
pub use conductor_runtime::registry::Registry;
pub use conductor_runtime::row::{
    FromRowChange, IntoRowFilter, NoRow, Row, RowChange, RowFault, RowOp, RowTriggerDefinition,
    RowTriggerInfo,
};
pub use conductor_runtime::task::{
    BatchDefinition, CronDefinition, CronTick, Keep, LimitDefinition, LimitKind, Output, Payload,
    PointInTime, RetryPolicy, State, Task, TaskDefinition, Trigger, WindowDefinition,
};
#[cfg(feature = "testing")]
pub use conductor_runtime::testing;
pub use conductor_runtime::verdict::{RetryExt, RetryVerdict, Verdict};
pub use conductor_schedule::{Missed, Overlap};

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod main_macro;
pub mod prelude;
mod failures_macro;
mod verdicts_macro;
pub mod guide;

/// What generated code names; no part of the public surface.
#[doc(hidden)]
pub mod __private {
    pub use conductor_runtime::event::{
        Emit, EmitInTransaction, Event, EventDefinition, Field, Filter, Nested, NestedInOption,
        StoredAsWritten, StoredByDerive, SubscriptionDefinition,
    };
    pub use conductor_runtime::failure::FailureOf;
    pub use conductor_runtime::inventory;
    pub use conductor_runtime::row::{RowChange, RowOp, RowPayload, RowTriggerDefinition};
    pub use conductor_runtime::task::{
        BatchHandler, CronDefinition, Handler, LimitDefinition, Place, StateNeed, TaskDefinition,
        TaskResult, WindowDefinition, batch_results,
    };
    pub use conductor_runtime::verdict::VerdictOf;
    pub use {anyhow, schemars, serde};
}
