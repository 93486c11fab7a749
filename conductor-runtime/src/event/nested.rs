use super::Field;

/// A struct inside an event whose fields filters can name.
///
/// Implemented by `#[derive(EventFields)]`.
///
/// Each field becomes an associated constant of the same name, with the name under which serde
/// stores it.
///
/// ```
/// use conductor::prelude::*;
///
/// #[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema, EventFields)]
/// struct Address {
///     city: String,
///     #[serde(rename = "zip")]
///     postal_code: String,
/// }
///
/// #[event]
/// struct Moved { user_id: i64, to: Address, from: Option<Address> }
///
/// let filter = Moved::to.then(Address::city).eq("Berlin").and(Moved::from.then(Address::postal_code).is_null());
/// # assert_eq!(filter.to_json()["of"][1]["path"], serde_json::json!(["from", "zip"]));
///
/// #[task(event(Moved, when = to.city == "Berlin" && from.postal_code != "10115"))]
/// async fn greet(ctx: &TaskContext, payload: Moved) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
pub trait EventFields {
    /// The names of the fields in Rust and in JSON.
    #[doc(hidden)]
    const STORED: &'static [(&'static str, &'static str)];
}

impl<T: EventFields> EventFields for Option<T> {
    const STORED: &'static [(&'static str, &'static str)] = T::STORED;
}

impl<T: EventFields> EventFields for Box<T> {
    const STORED: &'static [(&'static str, &'static str)] = T::STORED;
}

/// Returns the name under which a field of `T` is stored, if its derive knows it.
pub trait StoredByDerive {
    #[doc(hidden)]
    fn stored(&self, name: &'static str) -> &'static str;
}

impl<E, T: EventFields> StoredByDerive for Field<E, T> {
    fn stored(&self, name: &'static str) -> &'static str {
        let known = T::STORED.iter().find(|(field, _)| *field == name);
        known.map_or(name, |(_, stored)| stored)
    }
}

/// The same for other structs. The compiler tries this trait last, because it needs one more
/// reference.
pub trait StoredAsWritten {
    #[doc(hidden)]
    fn stored(&self, name: &'static str) -> &'static str;
}

impl<E, T> StoredAsWritten for &Field<E, T> {
    fn stored(&self, name: &'static str) -> &'static str {
        name
    }
}

/// A field of a field, which the compiler finds in `T`; `#[task]` uses it for `address.city`.
pub trait NestedInOption<E, T> {
    #[doc(hidden)]
    fn nested<U>(&self, name: &'static str, found: fn(&T) -> &U) -> Field<E, U>;
}

impl<E, T> NestedInOption<E, T> for Field<E, Option<T>> {
    fn nested<U>(&self, name: &'static str, _: fn(&T) -> &U) -> Field<E, U> {
        self.then(Field::<Option<T>, U>::new(&[name]))
    }
}

/// The same for types other than `Option`; see [`StoredAsWritten`].
pub trait Nested<E, T> {
    #[doc(hidden)]
    fn nested<U>(&self, name: &'static str, found: fn(&T) -> &U) -> Field<E, U>;
}

impl<E, T> Nested<E, T> for &Field<E, T> {
    fn nested<U>(&self, name: &'static str, _: fn(&T) -> &U) -> Field<E, U> {
        self.then(Field::<T, U>::new(&[name]))
    }
}
