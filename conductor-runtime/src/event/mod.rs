//! Events: typed facts that start executions and end waits.

mod definition;
mod effect;
mod emit;
mod emitter;
mod field;
mod filter;
mod holds;
mod log;
mod nested;
mod new_event;
mod operand;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use definition::{EventDefinition, SubscriptionDefinition};
pub use effect::{Affected, EventEffect};
pub use emit::{Emit, EmitInTransaction};
pub(crate) use emitter::Emitter;
pub use field::Field;
pub use filter::Filter;
pub use holds::Holds;
pub use log::EventInfo;
pub use nested::{EventFields, Nested, NestedInOption, StoredAsWritten, StoredByDerive};
pub(crate) use new_event::{NewEvent, write_events};
pub use operand::{Operand, Ordered};

/// A typed fact that can be emitted; implemented by `#[event]`.
///
/// It can be implemented by hand for a type that derives the traits of serde and schemars, but only
/// `#[event]` makes it known to the command line.
///
/// ```
/// use conductor::Event;
///
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// struct UserSignedUp { user_id: i64, plan: String }
///
/// impl Event for UserSignedUp {
///     const NAME: &'static str = "user_signed_up";
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "write `#[event]` on the struct"
)]
pub trait Event: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name of the event in the database.
    const NAME: &'static str;
    /// The version of the struct. Increase it with changes that old readers would not understand.
    /// Default: 1.
    const VERSION: u32 = 1;
    /// How long its events are kept, counted from when they were emitted. A wait that is reached
    /// later does not see them. Default: seven days.
    const KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);
}

/// A payload that can be made from an event; implemented through `From`.
#[diagnostic::on_unimplemented(
    message = "this task is started by `{E}`, so its payload `{Self}` must come from it",
    label = "it makes no `{Self}`",
    note = "write `impl From<{E}> for {Self}`, or take the event itself as `payload: {E}`"
)]
pub trait FromEvent<E> {
    /// Creates the payload.
    fn from_event(event: E) -> Self;
}

#[diagnostic::do_not_recommend]
impl<E: Event, T: From<E>> FromEvent<E> for T {
    fn from_event(event: E) -> Self {
        Self::from(event)
    }
}
