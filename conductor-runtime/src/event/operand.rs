use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use serde_json::Value;
use uuid::Uuid;

/// A value that a field of the type `T` can be compared with.
///
/// Implement it for an enum of your own that serde writes as a text:
///
/// ```
/// use conductor::Operand;
///
/// #[derive(serde::Serialize)]
/// enum Plan { Free, Pro }
///
/// impl Operand<Plan> for Plan {
///     fn json(self) -> serde_json::Value {
///         match self { Plan::Free => "Free", Plan::Pro => "Pro" }.into()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a field of type `{T}` cannot be compared with a `{Self}`",
    label = "the field is a `{T}`",
    note = "texts, numbers, booleans, `Uuid`s and the times of chrono can be compared; implement `conductor::Operand<{T}>` for an enum of your own"
)]
pub trait Operand<T> {
    /// Whether the value is a point in time.
    const IS_TIME: bool = false;

    /// Returns the value as it appears in the event's JSON.
    fn json(self) -> Value;
}

/// A type that the database can order as well: numbers, texts and times.
#[diagnostic::on_unimplemented(
    message = "values of type `{Self}` have no order that the database knows",
    label = "has no order",
    note = "`==` and `!=`, or `eq`, `ne` and `is_in`, work for every type that can be compared"
)]
pub trait Ordered {}

impl<T: Ordered> Ordered for Option<T> {}

impl<T, V: Operand<T>> Operand<Option<T>> for V {
    const IS_TIME: bool = V::IS_TIME;

    fn json(self) -> Value {
        Operand::<T>::json(self)
    }
}

macro_rules! plain {
    ($($of:ty),* $(,)?) => {
        $(impl Operand<$of> for $of {
            fn json(self) -> Value {
                Value::from(self)
            }
        })*
    };
}

plain!(
    i8, i16, i32, i64, isize, u8, u16, u32, u64, usize, f32, f64, bool, String
);

macro_rules! ordered {
    ($($of:ty),* $(,)?) => {
        $(impl Ordered for $of {})*
    };
}

ordered!(
    i8,
    i16,
    i32,
    i64,
    isize,
    u8,
    u16,
    u32,
    u64,
    usize,
    f32,
    f64,
    String,
    char,
    NaiveDate,
    NaiveDateTime,
    NaiveTime,
);

impl<Z: TimeZone> Ordered for DateTime<Z> {}

impl Operand<String> for &str {
    fn json(self) -> Value {
        self.into()
    }
}

impl Operand<String> for &String {
    fn json(self) -> Value {
        self.as_str().into()
    }
}

impl Operand<char> for char {
    fn json(self) -> Value {
        self.to_string().into()
    }
}

impl Operand<Uuid> for Uuid {
    fn json(self) -> Value {
        self.to_string().into()
    }
}

/// Formats values as chrono does for serde.
macro_rules! naive {
    ($($of:ty),* $(,)?) => {
        $(impl Operand<$of> for $of {
            fn json(self) -> Value {
                format!("{self:?}").into()
            }
        })*
    };
}

naive!(NaiveDate, NaiveDateTime, NaiveTime);

impl<F: TimeZone, Z: TimeZone> Operand<DateTime<F>> for DateTime<Z> {
    const IS_TIME: bool = true;

    fn json(self) -> Value {
        format!("{:?}", self.with_timezone(&Utc)).into()
    }
}
