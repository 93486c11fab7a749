//! The JSON of definitions, as `tasks --json` prints it. Durations are texts such as `15s`.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{
    CronDefinition, Keep, LimitDefinition, LimitKind, RetryPolicy, TaskDefinition, WindowDefinition,
};

fn text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Implements `Serialize` through a function that returns the JSON.
macro_rules! serialize_as {
    ($($of:ty => $json:expr;)*) => {
        $(impl Serialize for $of {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let json: fn(&Self) -> Value = $json;
                json(self).serialize(serializer)
            }
        })*
    };
}

serialize_as! {
    TaskDefinition => task;
    LimitDefinition => limit;
    CronDefinition => |cron| json!({
        "name": cron.name,
        "cron": cron.cron,
        "timezone": cron.timezone,
        "missed": cron.missed.as_str(),
        "overlap": cron.overlap.as_str(),
    });
    WindowDefinition => |window| json!({
        "hours": window.times,
        "days": window.days,
        "timezone": window.timezone,
    });
    RetryPolicy => |retry| json!({
        "max_attempts": retry.max_attempts,
        "backoff_initial": text(retry.backoff_initial),
        "backoff_max": text(retry.backoff_max),
        "jitter": retry.jitter,
    });
    Keep => |keep| json!({
        "completed": text(keep.completed),
        "failed": text(keep.failed),
    });
}

fn task(task: &TaskDefinition) -> Value {
    json!({
        "name": task.name,
        "queue": task.queue,
        "priority": task.priority,
        "retry": task.retry,
        "timeout": task.timeout.map(text),
        "limits": task.limits,
        "ordered_by": (!task.ordered_by.is_empty()).then(|| task.ordered_by.join(".")),
        "crons": task.crons,
        "window": task.window,
        "keep": task.keep,
        "docs": task.docs.trim(),
        "package": task.package,
        "file": task.place.file,
        "line": task.place.line,
        "payload_schema": task.payload_schema(),
        "output_schema": task.output_schema(),
    })
}

fn limit(limit: &LimitDefinition) -> Value {
    let (kind, per, burst) = match limit.kind {
        LimitKind::Concurrency => ("concurrency", None, None),
        LimitKind::Rate { per, burst } => ("rate", Some(text(per)), Some(burst)),
    };
    json!({
        "kind": kind,
        "name": limit.name,
        "amount": limit.amount,
        "per": per,
        "burst": burst,
        "key": (!limit.path.is_empty()).then(|| limit.path.join(".")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_kind_and_a_key() {
        let all = [
            LimitDefinition::concurrency(2),
            LimitDefinition::rate(100, 60_000).key(&["tenant", "id"]),
            LimitDefinition::concurrency(5).shared("stripe"),
        ];
        assert_eq!(
            json!(all),
            json!([
                {"kind": "concurrency", "name": null, "amount": 2, "per": null, "burst": null, "key": null},
                {"kind": "rate", "name": null, "amount": 100, "per": "1m", "burst": 1, "key": "tenant.id"},
                {"kind": "concurrency", "name": "stripe", "amount": 5, "per": null, "burst": null, "key": null},
            ])
        );
    }
}
