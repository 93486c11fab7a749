use std::fmt;

use serde_json::Value;

use super::{Event, FromEvent};
use crate::codec;
use crate::error::{Error, permanent};
use crate::task::{Place, Task};

/// All that `#[event]` knows of an event; collected at link time, stored in `conductor.event_types`.
#[derive(Clone, Copy)]
pub struct EventDefinition {
    /// The event's name in the database.
    pub name: &'static str,
    /// The version of its struct.
    pub version: u32,
    /// The doc comment.
    pub docs: &'static str,
    /// Where the event stands in the source.
    pub place: Place,
    /// The package that declares the event.
    pub package: &'static str,
    pub(crate) schema: fn() -> schemars::Schema,
    pub(crate) check: fn(&str) -> serde_json::Result<()>,
}

impl EventDefinition {
    /// The definition of `E`, without docs.
    pub const fn of<E: Event>(place: Place, package: &'static str) -> Self {
        Self {
            name: E::NAME,
            version: E::VERSION,
            docs: "",
            place,
            package,
            schema: codec::schema_of::<E>,
            check: |json| serde_json::from_str::<E>(json).map(drop),
        }
    }

    /// Sets the doc comment.
    #[must_use]
    pub const fn docs(mut self, docs: &'static str) -> Self {
        self.docs = docs;
        self
    }

    /// The events that are linked into this binary, in no order.
    pub fn all() -> impl Iterator<Item = &'static EventDefinition> {
        inventory::iter::<EventDefinition>()
    }

    /// The JSON Schema of the event.
    pub fn schema(&self) -> Value {
        (self.schema)().to_value()
    }
}

impl fmt::Debug for EventDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventDefinition")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

inventory::collect!(EventDefinition);

/// An event that starts executions of a task, declared with `event(…)`.
#[derive(Clone, Copy)]
pub struct SubscriptionDefinition {
    /// The event's name.
    pub event: &'static str,
    /// The version of the struct that the task reads.
    pub event_version: u32,
    /// Which events; all where there is none.
    pub filter: Option<fn() -> Value>,
    /// Makes the payload's JSON of the event's.
    pub convert: fn(&str) -> anyhow::Result<String>,
}

impl SubscriptionDefinition {
    /// Every event of type `E`.
    pub const fn of<T: Task, E: Event>() -> Self
    where
        T::Payload: FromEvent<E>,
    {
        Self {
            event: E::NAME,
            event_version: E::VERSION,
            filter: None,
            convert: |json| {
                let event: E = serde_json::from_str(json)
                    .map_err(|error| permanent(Error::event(E::NAME, error).into()))?;
                codec::encode_payload::<T>(&T::Payload::from_event(event))
                    .map_err(|error| permanent(error.into()))
            },
        }
    }

    /// Only those that a filter lets through: a function that gives [`super::Filter::to_json`].
    #[must_use]
    pub const fn when(mut self, filter: fn() -> Value) -> Self {
        self.filter = Some(filter);
        self
    }

    /// The one that makes the payload of an event of this name.
    pub(crate) fn of_event<'s>(subscriptions: &'s [Self], name: &str) -> Option<&'s Self> {
        subscriptions.iter().find(|s| s.event == name)
    }

    /// The filter's JSON.
    pub(crate) fn filter_json(&self) -> Option<Value> {
        self.filter.map(|filter| filter())
    }
}

impl fmt::Debug for SubscriptionDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionDefinition")
            .field("event", &self.event)
            .field("event_version", &self.event_version)
            .field("filter", &self.filter_json())
            .finish_non_exhaustive()
    }
}
