//! What a task is to the runtime: a type that names its payload, its output and its handler.

mod batch;
mod definition;
mod instant;
mod limit;
mod policy;
mod result;
mod state;
mod tick;
mod timing;
mod trigger;

use std::future::Future;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::TaskContext;

pub use batch::{BatchDefinition, BatchHandler, batch_results};
pub use definition::{ErasedFuture, Place, StateArgument, StateNeed, TaskDefinition};
pub(crate) use definition::{RunSingle, Runner};
pub use instant::PointInTime;
pub(crate) use limit::KeyPlace;
pub use limit::{LimitDefinition, LimitKind};
pub use policy::{Keep, RetryPolicy};
pub use result::TaskResult;
pub use state::{FromStates, State, States};
pub use tick::{CronTick, FromTick};
pub use timing::{CronDefinition, WindowDefinition};
pub use trigger::Trigger;

/// A durable task: implemented by `#[task]`, named by users as the key of an invoke.
///
/// ```
/// use conductor::prelude::*;
///
/// #[task]
/// async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
///     Ok(format!("Hello, {name}!"))
/// }
///
/// assert_eq!(Greet::NAME, "greet");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "not a task",
    note = "name the type that `#[task]` makes of the function: `async fn resize_image` becomes `ResizeImage`"
)]
pub trait Task: Send + Sync + 'static {
    /// What a caller hands over. Stored as JSON until the execution is removed.
    type Payload: Payload;
    /// What the handler gives back. Stored as JSON with the outcome.
    type Output: Output;
    /// The name by which the database knows the task.
    const NAME: &'static str;
}

/// Everything that can be a task's payload: owned, (de)serializable, with a JSON Schema.
pub trait Payload: Serialize + DeserializeOwned + JsonSchema + Send + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Payload for T {}

/// Everything that can be a task's output: owned, (de)serializable, with a JSON Schema.
pub trait Output: Serialize + DeserializeOwned + JsonSchema + Send + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Output for T {}

/// The code behind a [`Task`]; implemented by `#[task]`, called by the worker.
pub trait Handler: Task {
    /// Runs one attempt. An error ends the attempt as failed.
    fn call(
        ctx: &TaskContext,
        payload: Self::Payload,
    ) -> impl Future<Output = anyhow::Result<Self::Output>> + Send;
}
