use std::any::TypeId;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::{Event, FromEvent};
use crate::codec;
use crate::task::{Place, Task};
use crate::unreadable::{Unreadable, read};
use crate::verdict::permanent;

/// What `#[event]` knows of an event; collected at link time, stored in `conductor.event_types`.
#[derive(Clone, Copy)]
pub struct EventDefinition {
    /// The event's name in the database.
    pub name: &'static str,
    /// The version of its struct.
    pub version: u32,
    /// How long its events are kept.
    pub keep: Duration,
    /// The doc comment.
    pub docs: &'static str,
    /// Where the event is declared in the source.
    pub place: Place,
    /// The package that declares the event.
    pub package: &'static str,
    pub(crate) schema: fn() -> schemars::Schema,
    pub(crate) check: fn(&str) -> std::result::Result<(), String>,
    pub(crate) type_id: fn() -> TypeId,
}

impl EventDefinition {
    /// Returns the definition of `E`, without docs.
    pub const fn of<E: Event>(place: Place, package: &'static str) -> Self {
        Self {
            name: E::NAME,
            version: E::VERSION,
            keep: E::KEEP,
            docs: "",
            place,
            package,
            schema: codec::schema_of::<E>,
            check: |json| read::<E>(json).map(drop).map_err(Into::into),
            type_id: TypeId::of::<E>,
        }
    }

    /// Sets the doc comment.
    #[must_use]
    pub const fn docs(mut self, docs: &'static str) -> Self {
        self.docs = docs;
        self
    }

    /// Returns the events that are linked into this binary, in no particular order.
    pub fn all() -> impl Iterator<Item = &'static EventDefinition> {
        inventory::iter::<EventDefinition>()
    }

    /// Returns the JSON Schema of the event.
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
    /// Which events of this name start the task; all if `None`.
    pub filter: Option<fn() -> Value>,
    /// Converts the event's JSON to the payload's.
    pub convert: fn(&str) -> anyhow::Result<String>,
    /// Whether the payload is the event itself.
    pub(crate) is_payload: fn() -> bool,
    schema: fn() -> schemars::Schema,
}

impl SubscriptionDefinition {
    /// Subscribes to every event of type `E`.
    pub const fn of<T: Task, E: Event>() -> Self
    where
        T::Payload: FromEvent<E>,
    {
        Self {
            event: E::NAME,
            event_version: E::VERSION,
            filter: None,
            is_payload: || TypeId::of::<E>() == TypeId::of::<T::Payload>(),
            schema: codec::schema_of::<E>,
            convert: |json| {
                let event: E = read(json).map_err(|reason| {
                    Unreadable::new(format!("the event {:?}", E::NAME), reason)
                })?;
                codec::encode_payload::<T>(&T::Payload::from_event(event))
                    .map_err(|error| permanent(error.into()))
            },
        }
    }

    /// Subscribes only to events that match a filter; the function returns [`super::Filter::to_json`].
    #[must_use]
    pub const fn when(mut self, filter: fn() -> Value) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Returns the subscription to the event of this name.
    pub(crate) fn of_event<'s>(subscriptions: &'s [Self], name: &str) -> Option<&'s Self> {
        subscriptions.iter().find(|s| s.event == name)
    }

    /// Returns an error if the filter cannot be stored or can never match.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let Some(filter) = self.filter_json() else {
            return Ok(());
        };
        let event = self.event;
        codec::check_storable(&filter.to_string()).map_err(|reason| {
            format!("the condition on event {event:?} cannot be stored: {reason}")
        })?;
        let schema = (self.schema)().to_value();
        let mut paths = Vec::new();
        collect_paths(&filter, &mut paths);
        for path in paths {
            if let Some(field) = codec::unknown_field(&schema, path.iter().copied()) {
                return Err(format!(
                    "the condition looks at `{}`, and the JSON of event {event:?} has no `{field}` \
                     there, as serde writes it otherwise: derive `EventFields` for the struct that \
                     has the field",
                    path.join(".")
                ));
            }
        }
        Ok(())
    }

    /// Returns the filter's JSON.
    pub(crate) fn filter_json(&self) -> Option<Value> {
        self.filter.map(|filter| filter())
    }
}

/// Collects the paths of the fields that a filter reads.
fn collect_paths<'f>(filter: &'f Value, paths: &mut Vec<Vec<&'f str>>) {
    match filter.get("of") {
        Some(Value::Array(parts)) => parts.iter().for_each(|part| collect_paths(part, paths)),
        Some(part) => collect_paths(part, paths),
        None => {
            let path = filter.get("path").and_then(Value::as_array);
            paths.extend(path.map(|path| path.iter().filter_map(Value::as_str).collect()));
        }
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

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::{Field, Filter};
    use super::*;

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Moved {
        to: Option<Address>,
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Address {
        #[serde(rename = "postCode")]
        post_code: String,
    }

    impl Event for Moved {
        const NAME: &'static str = "moved";
    }

    struct Greet;

    impl Task for Greet {
        type Payload = Moved;
        type Output = ();
        const NAME: &'static str = "greet";
    }

    fn code(path: &[&'static str]) -> Filter<Moved> {
        !Field::<Moved, String>::new(path)
            .eq("1")
            .and(Field::<Moved, String>::new(path).is_null())
    }

    #[test]
    fn a_filter_on_a_field_that_is_not_stored_is_found_out() {
        let of = SubscriptionDefinition::of::<Greet, Moved>();
        assert_eq!(of.check(), Ok(()));
        assert_eq!(
            of.when(|| code(&["to", "postCode"]).to_json()).check(),
            Ok(())
        );
        let wrong = of.when(|| code(&["to", "post_code"]).to_json()).check();
        assert!(wrong.is_err_and(|reason| reason.contains("looks at `to.post_code`")));
        let nul = of.when(|| Field::<Moved, String>::new(&["to"]).eq("\0").to_json());
        assert!(nul.check().is_err_and(|reason| reason.contains("U+0000")));
    }
}
