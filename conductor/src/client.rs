//! Calls of applications, and the builders and handles that they return.
//!
//! [`Conductor`] is the entry. Its calls by name are [`Untyped`], its reads [`Inspect`](crate::inspect::Inspect).

pub use conductor_runtime::client::{
    Cancel, Conductor, Execution, Invocation, Invoke, InvokeBatch, InvokeInTransaction, Invoked,
    Queues, Untyped,
};
pub use conductor_runtime::codec::{MAX_JSON_BYTES, MAX_JSON_DEPTH};
pub use conductor_runtime::event::{Emit, EmitInTransaction};
pub use conductor_runtime::task::PointInTime;
