//! Tasks: the trait that names a payload, an output and a handler, and the definitions for it.

mod batch;
mod definition;
mod handler;
mod instant;
mod json;
mod limit;
mod output;
mod place;
mod policy;
mod result;
mod state;
mod tick;
mod timing;
mod trigger;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use batch::DecodedItems;
pub use batch::{BatchDefinition, BatchHandler, batch_results};
pub use definition::{ErasedFuture, StateArgument, StateNeed, TaskDefinition};
pub(crate) use definition::{RunSingle, Runner};
pub use handler::Handler;
pub use instant::PointInTime;
pub(crate) use limit::KeyPlace;
pub use limit::{LimitDefinition, LimitKind};
pub use place::Place;
pub use policy::{Keep, RetryPolicy};
pub use result::{HandlerError, TaskResult, handler_result};
pub use state::{FromStates, State, States};
pub use tick::{CronTick, FromTick};
pub use timing::{CronDefinition, WindowDefinition};
pub use trigger::Trigger;

/// A durable task; implemented by `#[task]`, and the type parameter of an invoke.
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
    /// The input of an execution. Stored as JSON until the execution is removed.
    type Payload: Payload;
    /// The output of the handler. Stored as JSON with the outcome.
    type Output: Output;
    /// The name of the task in the database.
    const NAME: &'static str;
}

/// A type that can be a task's payload: owned, (de)serializable, with a JSON Schema.
pub trait Payload: Serialize + DeserializeOwned + JsonSchema + Send + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Payload for T {}

/// A type that can be a task's output: owned, (de)serializable, with a JSON Schema.
pub trait Output: Serialize + DeserializeOwned + JsonSchema + Send + 'static {}
impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Output for T {}

/// The options of a [`Task`]; implemented by `#[task]`.
///
/// A [`Registry`](crate::registry::Registry) is made of such types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not declared by `#[task]`",
    note = "write `#[task]` on the function, and name the type that it makes"
)]
pub trait Declared: Task {
    /// The name, the options and the code.
    const DEFINITION: TaskDefinition;
}
