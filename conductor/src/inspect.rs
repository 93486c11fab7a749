//! What the database knows: executions, events, queues, schedules and triggers.
//!
//! All types of this module that describe something implement `Serialize`. Names in JSON are those of the
//! fields, and enums are words in snake case, as in SQL and in the command line's `--json`.

pub use conductor_runtime::client::{
    Astray, Awaited, Brief, Child, ExecutionInfo, FailedAttempt, Filter, Inspect, LimitKey, Parent,
    Process, QueueInfo, Reason, Runner, ScheduleInfo, Status, StepInfo, StepKey, Story, Stuck,
    WaitInfo, Why,
};
pub use conductor_runtime::event::{Affected, EventEffect, EventInfo};
pub use conductor_runtime::row::{RowFault, RowTriggerInfo};
