use serde_json::Value;

use super::{RowChange, RowOp};
use crate::event::Filter;

/// The argument of `.when(…)` for a wait for a row.
///
/// It is a filter on the whole change, or a filter on the row, which applies to the new row, or to the old one if it
/// was deleted.
pub trait IntoRowFilter<R> {
    /// Returns the filter's JSON, over `{"old": …, "new": …}`.
    fn row_filter_json(self, op: RowOp) -> Value;
}

impl<R> IntoRowFilter<R> for Filter<R> {
    fn row_filter_json(self, op: RowOp) -> Value {
        match op {
            RowOp::Delete => self.on_old().to_json(),
            RowOp::Insert | RowOp::Update => self.on_new().to_json(),
        }
    }
}

impl<R> IntoRowFilter<R> for Filter<RowChange<R>> {
    fn row_filter_json(self, _: RowOp) -> Value {
        self.to_json()
    }
}

impl<R> Filter<R> {
    /// Returns the same filter on the row before a change.
    pub fn on_old(&self) -> Filter<RowChange<R>> {
        self.below("old")
    }

    /// Returns the same filter on the row after a change.
    pub fn on_new(&self) -> Filter<RowChange<R>> {
        self.below("new")
    }

    fn below(&self, side: &str) -> Filter<RowChange<R>> {
        let mut json = self.to_json();
        prefix(&mut json, side);
        Filter::from_json(json)
    }
}

fn prefix(json: &mut Value, side: &str) {
    match json {
        Value::Array(parts) => parts.iter_mut().for_each(|part| prefix(part, side)),
        Value::Object(object) => {
            for path in ["path", "other"] {
                if let Some(Value::Array(names)) = object.get_mut(path) {
                    names.insert(0, side.into());
                }
            }
            if let Some(of) = object.get_mut("of") {
                prefix(of, side);
            }
        }
        _ => {}
    }
}

/// Collects the columns that a filter on a change reads: the second names of its paths.
pub(super) fn columns(json: &Value, found: &mut Vec<String>) {
    match json {
        Value::Array(parts) => parts.iter().for_each(|part| columns(part, found)),
        Value::Object(object) => {
            let paths = ["path", "other"]
                .into_iter()
                .filter_map(|key| object.get(key));
            found.extend(
                paths
                    .filter_map(|path| path.get(1)?.as_str())
                    .map(str::to_owned),
            );
            if let Some(of) = object.get("of") {
                columns(of, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Field;

    struct User;

    const PLAN: Field<User, String> = Field::new(&["plan"]);
    const VISITS: Field<User, i64> = Field::new(&["stats", "visits"]);

    #[test]
    fn a_filter_on_the_row_means_the_one_that_is_there() {
        let filter = || PLAN.eq("pro").and(!VISITS.gt(3));
        let on = |side: &str| {
            json!({"op": "and", "of": [
                {"op": "eq", "path": [side, "plan"], "value": "pro"},
                {"op": "not", "of": {"op": "gt", "path": [side, "stats", "visits"], "value": 3}},
            ]})
        };
        assert_eq!(filter().row_filter_json(RowOp::Update), on("new"));
        assert_eq!(filter().row_filter_json(RowOp::Delete), on("old"));
        let whole: Filter<RowChange<User>> = filter().on_old();
        let json = IntoRowFilter::<User>::row_filter_json(whole, RowOp::Update);
        assert_eq!(json, on("old"));
        let mut found = Vec::new();
        columns(&on("new"), &mut found);
        assert_eq!(found, ["plan", "stats"]);
    }
}
