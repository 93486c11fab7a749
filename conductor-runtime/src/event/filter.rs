use std::fmt;
use std::marker::PhantomData;
use std::ops::Not;

use serde_json::{Value, json};

/// A condition on events of type `E`, evaluated by the database.
///
/// The methods of [`super::Field`] create it.
///
/// ```
/// # use conductor::{Event, Field};
/// # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// # struct Paid { cents: i64, country: Option<String> }
/// # impl Event for Paid { const NAME: &'static str = "paid"; }
/// let cents = Field::<Paid, i64>::new(&["cents"]);
/// let country = Field::<Paid, Option<String>>::new(&["country"]);
/// let filter = cents.ge(10_000).and(!country.is_in(["de", "at"]).or(country.is_null()));
/// # assert_eq!(filter.to_json()["of"][0]["op"], "ge");
/// ```
#[must_use = "a filter does nothing by itself"]
pub struct Filter<E> {
    json: Value,
    of: PhantomData<fn() -> E>,
}

impl<E> Filter<E> {
    pub(crate) fn from_json(json: Value) -> Self {
        Self {
            json,
            of: PhantomData,
        }
    }

    /// Matches if both match.
    pub fn and(self, other: Self) -> Self {
        self.joined("and", other)
    }

    /// Matches if at least one of them matches.
    pub fn or(self, other: Self) -> Self {
        self.joined("or", other)
    }

    /// Returns the JSON that `conductor.matches` evaluates.
    pub fn to_json(&self) -> Value {
        self.json.clone()
    }

    /// Joins filters into one list if they have the same operator, so that long chains stay flat.
    fn joined(self, op: &str, other: Self) -> Self {
        let parts = |json: Value| match json {
            Value::Object(mut object) if object.get("op").is_some_and(|have| have == op) => {
                match object.remove("of") {
                    Some(Value::Array(parts)) => parts,
                    _ => Vec::new(),
                }
            }
            other => vec![other],
        };
        let mut of = parts(self.json);
        of.extend(parts(other.json));
        Self::from_json(json!({"op": op, "of": of}))
    }
}

impl<E> Not for Filter<E> {
    type Output = Self;

    /// Matches if the filter does not match.
    fn not(self) -> Self {
        Self::from_json(json!({"op": "not", "of": self.json}))
    }
}

impl<E> Clone for Filter<E> {
    fn clone(&self) -> Self {
        Self::from_json(self.json.clone())
    }
}

impl<E> fmt::Debug for Filter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.json)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Field;
    use serde_json::json;

    struct Seen;

    const PLAN: Field<Seen, String> = Field::new(&["plan"]);
    const VISITS: Field<Seen, Option<i64>> = Field::new(&["visits"]);

    #[test]
    fn a_filter_is_plain_json() {
        let filter = PLAN.eq("pro").and(VISITS.gt(3)).and(!VISITS.is_in([7, 8]));
        assert_eq!(
            filter.to_json(),
            json!({"op": "and", "of": [
                {"op": "eq", "path": ["plan"], "value": "pro"},
                {"op": "gt", "path": ["visits"], "value": 3},
                {"op": "not", "of": {"op": "in", "path": ["visits"], "values": [7, 8]}},
            ]})
        );
        let city =
            Field::<Seen, Option<()>>::new(&["address"]).then(Field::<(), String>::new(&["city"]));
        assert_eq!(
            city.is_null().or(city.ne("x")).to_json(),
            json!({"op": "or", "of": [
                {"op": "null", "path": ["address", "city"]},
                {"op": "ne", "path": ["address", "city"], "value": "x"},
            ]})
        );
    }

    #[test]
    fn times_are_marked() {
        let at = Field::<Seen, Option<chrono::DateTime<chrono::Utc>>>::new(&["at"]);
        let noon = "2026-01-01T12:00:00Z".parse::<chrono::DateTime<chrono::Utc>>();
        let json = noon.map(|noon| at.lt(noon).to_json());
        assert_eq!(
            json,
            Ok(json!({"op": "lt", "path": ["at"], "value": "2026-01-01T12:00:00Z", "as": "time"}))
        );
    }
}
