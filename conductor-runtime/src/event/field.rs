use std::fmt;
use std::marker::PhantomData;

use serde_json::{Value, json};

use super::{Filter, Holds, Operand, Ordered};

/// The deepest field that a filter can read.
const MAX_DEPTH: usize = 8;

/// A field of an event, of type `T`, for filters. `#[event]` creates one for each field.
///
/// A missing value is null. Numbers are compared as numbers, texts byte by byte, times as points in time. If the
/// value has another type than the field, every comparison is false, including [`ne`](Self::ne).
///
/// ```
/// # use conductor::{Event, Field};
/// # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// # struct UserSignedUp { plan: String, visits: i64 }
/// # impl Event for UserSignedUp { const NAME: &'static str = "user_signed_up"; }
/// impl UserSignedUp {
///     // Written by #[event].
///     #![allow(non_upper_case_globals)]
///     pub const plan: Field<Self, String> = Field::new(&["plan"]);
///     pub const visits: Field<Self, i64> = Field::new(&["visits"]);
/// }
///
/// let filter = UserSignedUp::plan.eq("pro").and(UserSignedUp::visits.gt(3));
/// # assert_eq!(filter.to_json()["op"], "and");
/// ```
pub struct Field<E, T> {
    path: [&'static str; MAX_DEPTH],
    depth: usize,
    of: PhantomData<fn() -> (E, T)>,
}

impl<E, T> Clone for Field<E, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, T> Copy for Field<E, T> {}

impl<E, T> Field<E, T> {
    /// Creates a handle to the field at this path of names, as they appear in the event's JSON.
    ///
    /// # Panics
    /// If the path has more than eight names; in a constant, at compile time.
    pub const fn new(names: &[&'static str]) -> Self {
        assert!(
            names.len() <= MAX_DEPTH,
            "a filter reaches eight levels deep"
        );
        let mut path = [""; MAX_DEPTH];
        let mut at = 0;
        while at < names.len() {
            path[at] = names[at];
            at += 1;
        }
        Self {
            path,
            depth: names.len(),
            of: PhantomData,
        }
    }

    /// Returns a handle to a field of the struct that this field holds.
    ///
    /// For example, `Moved::to.then(Address::city)`.
    ///
    /// The field may be an `Option` of the struct. The inner handle is one of [`EventFields`](super::EventFields), or
    /// made by hand.
    ///
    /// # Panics
    /// If the path has more than eight names; in a constant, at compile time.
    #[must_use]
    pub const fn then<N, U>(self, inner: Field<N, U>) -> Field<E, U>
    where
        T: Holds<N>,
    {
        assert!(
            self.depth + inner.depth <= MAX_DEPTH,
            "a filter reaches eight levels deep"
        );
        let mut path = self.path;
        let mut at = 0;
        while at < inner.depth {
            path[self.depth + at] = inner.path[at];
            at += 1;
        }
        Field {
            path,
            depth: self.depth + inner.depth,
            of: PhantomData,
        }
    }

    /// Matches if the field equals the value.
    pub fn eq(self, value: impl Operand<T>) -> Filter<E> {
        self.compare("eq", value)
    }

    /// Matches if the field has another value of its type. Null is not a value.
    pub fn ne(self, value: impl Operand<T>) -> Filter<E> {
        self.compare("ne", value)
    }

    /// Matches if the field is less than the value.
    pub fn lt(self, value: impl Operand<T>) -> Filter<E>
    where
        T: Ordered,
    {
        self.compare("lt", value)
    }

    /// Matches if the field is at most the value.
    pub fn le(self, value: impl Operand<T>) -> Filter<E>
    where
        T: Ordered,
    {
        self.compare("le", value)
    }

    /// Matches if the field is greater than the value.
    pub fn gt(self, value: impl Operand<T>) -> Filter<E>
    where
        T: Ordered,
    {
        self.compare("gt", value)
    }

    /// Matches if the field is at least the value.
    pub fn ge(self, value: impl Operand<T>) -> Filter<E>
    where
        T: Ordered,
    {
        self.compare("ge", value)
    }

    /// Matches if the field equals one of the values.
    pub fn is_in<V: Operand<T>>(self, values: impl IntoIterator<Item = V>) -> Filter<E> {
        let values: Vec<Value> = values.into_iter().map(Operand::json).collect();
        let mut json = json!({"op": "in", "path": self.path(), "values": values});
        mark::<T, V>(&mut json);
        Filter::from_json(json)
    }

    /// Matches if both fields have the same value, or are both null.
    ///
    /// It is the meaning of `new.plan == old.plan` in the condition of a row change.
    pub fn same_as(self, other: Self) -> Filter<E> {
        self.beside("same", other)
    }

    /// Matches if the fields do not have the same value.
    pub fn differs_from(self, other: Self) -> Filter<E> {
        self.beside("differs", other)
    }

    /// Matches if the field is null or missing.
    pub fn is_null(self) -> Filter<E> {
        Filter::from_json(json!({"op": "null", "path": self.path()}))
    }

    /// Matches if the field has a value.
    pub fn is_not_null(self) -> Filter<E> {
        !self.is_null()
    }

    fn compare<V: Operand<T>>(self, op: &str, value: V) -> Filter<E> {
        let mut json = json!({"op": op, "path": self.path(), "value": value.json()});
        mark::<T, V>(&mut json);
        Filter::from_json(json)
    }

    fn beside(self, op: &str, other: Self) -> Filter<E> {
        Filter::from_json(json!({"op": op, "path": self.path(), "other": other.path()}))
    }

    fn path(&self) -> &[&'static str] {
        &self.path[..self.depth]
    }
}

/// Marks texts that are to be compared as times.
fn mark<T, V: Operand<T>>(json: &mut Value) {
    if V::IS_TIME {
        json["as"] = "time".into();
    }
}

impl<E, T> fmt::Debug for Field<E, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({})", self.path().join("."))
    }
}
