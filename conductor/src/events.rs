//! Events, their fields and filters on them.
//!
//! The guide page is [`events`](crate::guide::events).

pub use conductor_macros::EventFields;
pub use conductor_runtime::event::{
    Event, EventDefinition, EventFields, Field, Filter, Operand, Ordered, SubscriptionDefinition,
};
