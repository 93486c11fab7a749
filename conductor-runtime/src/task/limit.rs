use std::time::Duration;

use serde_json::{Value, json};

use super::TaskDefinition;
use crate::codec::unknown_field;

/// A limit on how many executions of a task, or of one key, run at once or start in an interval.
///
/// It applies across all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitDefinition {
    /// What is limited.
    pub kind: LimitKind,
    /// The amount.
    pub amount: u32,
    /// The path of the key in the payload; empty if the limit is for the whole task.
    pub path: &'static [&'static str],
    /// The name under which tasks of one queue share it; `None` if it is for this task only.
    pub name: Option<&'static str>,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Executions that are running.
    Concurrency,
    /// Starts in each interval, spaced evenly.
    Rate {
        /// The interval.
        per: Duration,
        /// How many may start at once after a pause; at least 1, at most the amount.
        burst: u32,
    },
}

impl LimitDefinition {
    /// Limits how many run at once.
    pub const fn concurrency(amount: u32) -> Self {
        Self {
            kind: LimitKind::Concurrency,
            amount,
            path: &[],
            name: None,
        }
    }

    /// Limits how many start in an interval, in milliseconds.
    pub const fn rate(amount: u32, per_ms: u64) -> Self {
        Self {
            kind: LimitKind::Rate {
                per: Duration::from_millis(per_ms),
                burst: 1,
            },
            amount,
            path: &[],
            name: None,
        }
    }

    /// Sets how many may start at once after a pause. Has no effect on a concurrency limit.
    #[must_use]
    pub const fn burst(mut self, starts: u32) -> Self {
        if let LimitKind::Rate { per, .. } = self.kind {
            self.kind = LimitKind::Rate { per, burst: starts };
        }
        self
    }

    /// Applies the limit to each key in the payload separately.
    #[must_use]
    pub const fn key(mut self, path: &'static [&'static str]) -> Self {
        self.path = path;
        self
    }

    /// Shares the limit with all tasks of the queue that have a limit of this name.
    #[must_use]
    pub const fn shared(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Returns the input of `conductor.declare_limits`.
    pub(crate) fn declaration(&self) -> Value {
        let (kind, per, burst) = match self.kind {
            LimitKind::Concurrency => ("concurrency", None, 1),
            LimitKind::Rate { per, burst } => ("rate", Some(per.as_secs_f64() * 1e3), burst),
        };
        json!({
            "kind": kind,
            "name": self.name.unwrap_or_default(),
            "amount": self.amount,
            "path": self.path,
            "per_ms": per,
            "burst": burst,
        })
    }
}

/// The place of a key in a payload that limits or orders executions.
pub(crate) struct KeyPlace {
    /// The path of the key; empty if there is no key.
    pub path: &'static [&'static str],
    /// What of the task has the key, as a phrase and as a name.
    pub of: &'static str,
    pub what: &'static str,
    /// Advice on how to do without the key.
    pub without: &'static str,
}

impl KeyPlace {
    /// Returns all keys of a task.
    pub(crate) fn all(task: &TaskDefinition) -> impl Iterator<Item = Self> {
        let limits = task.limits.iter().map(|limit| Self {
            path: limit.path,
            of: "a limit",
            what: "limit",
            without: "Limit the task without a key",
        });
        limits.chain([Self {
            path: task.ordered_by,
            of: "`ordered_by`",
            what: "ordered_by",
            without: "Do without the order",
        }])
    }

    /// Returns an error if the key cannot be found in executions that events or row changes start:
    /// until such an execution runs, its payload is the event or the change itself.
    pub(crate) fn check_starts(&self, task: &TaskDefinition) -> Result<(), String> {
        if self.path.is_empty() {
            return Ok(());
        }
        let events = task.subscriptions.iter().filter(|s| !(s.is_payload)());
        let events = events.map(|s| format!("event {:?}", s.event));
        let rows = task.row_triggers.iter().filter(|r| !(r.is_payload)());
        let rows = rows.map(|r| format!("the {} in {:?}", r.op, r.table));
        match events.chain(rows).next() {
            None => Ok(()),
            Some(what) => Err(format!(
                "the key `payload.{}` of {} cannot be found in executions that {what} starts: \
                 they count before the payload is made with `From`. {}, \
                 give it the event itself as its payload, or start by the event a task without \
                 a {} that invokes this one",
                self.path.join("."),
                self.of,
                self.without,
                self.what,
            )),
        }
    }

    /// Returns an error if the key cannot be found in payloads of this schema.
    pub(crate) fn check(&self, schema: &Value) -> Result<(), String> {
        match unknown_field(schema, self.path.iter().copied()) {
            None => Ok(()),
            Some(field) => Err(format!(
                "the key `payload.{}` of {} is not in the payload's JSON: `{field}` is \
                 written under another name there, which the database cannot follow",
                self.path.join("."),
                self.of
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Serialize;

    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Order {
        tenant_id: i64,
        #[serde(rename = "userId")]
        user_id: i64,
        address: Option<Address>,
    }

    #[derive(Serialize, JsonSchema)]
    struct Address {
        city: String,
    }

    #[test]
    fn a_key_that_serde_renames_is_found_out() {
        let schema = schemars::schema_for!(Order).to_value();
        let check = |path| {
            let (of, what, without) = ("a limit", "limit", "");
            KeyPlace {
                path,
                of,
                what,
                without,
            }
            .check(&schema)
        };
        assert_eq!(check(&["tenant_id"]), Ok(()));
        assert_eq!(check(&["address", "city"]), Ok(()));
        assert!(check(&["user_id"]).is_err_and(|reason| reason.contains("`payload.user_id`")));
        assert!(check(&["address", "town"]).is_err());
        assert_eq!(check(&[]), Ok(()));
    }
}
