//! `tasks`: what this program can do; and the answer to a name that nobody knows.

use std::fmt::Write as _;

use anstyle::Style;
use conductor_runtime::client::Conductor;
use conductor_runtime::error::Error;
use conductor_runtime::registry::{Registry, nearest};
use conductor_runtime::task::{LimitDefinition, LimitKind, TaskDefinition};
use serde_json::{Value, json};

use super::arguments::Tasks;
use super::fault::Done;
use super::output::{self, FAINT, STRONG, Table};

pub(super) fn tasks(command: Tasks) -> Done {
    let tasks = Registry::global().tasks();
    if command.json {
        let all: Value = tasks.map(object).collect();
        output::print(&format!("{all:#}"))?;
        return Ok(());
    }
    let tasks: Vec<_> = tasks.collect();
    if tasks.is_empty() {
        output::note(
            "no tasks; is the crate with the tasks linked? See `link` of `conductor::main!`",
        );
        return Ok(());
    }
    let mut table = Table::new(&[
        "TASK", "QUEUE", "PRIORITY", "RETRIES", "TIMEOUT", "LIMITS", "PLACE", "ABOUT",
    ]);
    for task in tasks {
        let plain = |text: String| (text, Style::new());
        let retry = &task.retry;
        let retries = match retry.max_attempts {
            0 | 1 => "none".to_owned(),
            attempts => format!(
                "{} ({}..{})",
                attempts - 1,
                humantime::format_duration(retry.backoff_initial),
                humantime::format_duration(retry.backoff_max)
            ),
        };
        let timeout = task
            .timeout
            .map(|time| humantime::format_duration(time).to_string());
        table.row(vec![
            (output::line(task.name, 100), STRONG),
            plain(output::line(task.queue, 100)),
            plain(task.priority.to_string()),
            plain(retries),
            plain(timeout.unwrap_or_else(|| "none".to_owned())),
            plain(limits(task.limits)),
            (task.place.to_string(), FAINT),
            plain(output::line(
                task.docs.trim().lines().next().unwrap_or_default(),
                80,
            )),
        ]);
    }
    output::print(&table.render())?;
    Ok(())
}

/// "2 at once, 100/1m by tenant.id"
fn limits(of: &[LimitDefinition]) -> String {
    let limits = of.iter().map(|limit| {
        let amount = match limit.kind {
            LimitKind::Concurrency => format!("{} at once", limit.amount),
            LimitKind::Rate { per } => {
                format!("{}/{}", limit.amount, humantime::format_duration(per))
            }
        };
        match limit.path {
            [] => amount,
            path => format!("{amount} by {}", path.join(".")),
        }
    });
    let limits: Vec<String> = limits.collect();
    if limits.is_empty() {
        return "none".to_owned();
    }
    output::line(&limits.join(", "), 100)
}

fn limit(limit: &LimitDefinition) -> Value {
    let (kind, per) = match limit.kind {
        LimitKind::Concurrency => ("concurrency", None),
        LimitKind::Rate { per } => ("rate", Some(humantime::format_duration(per).to_string())),
    };
    let key = (!limit.path.is_empty()).then(|| limit.path.join("."));
    json!({ "kind": kind, "amount": limit.amount, "per": per, "key": key })
}

fn object(task: &TaskDefinition) -> Value {
    let time = |time| humantime::format_duration(time).to_string();
    json!({
        "name": task.name,
        "queue": task.queue,
        "priority": task.priority,
        "retry": {
            "max_attempts": task.retry.max_attempts,
            "backoff_initial": time(task.retry.backoff_initial),
            "backoff_max": time(task.retry.backoff_max),
            "jitter": task.retry.jitter,
        },
        "timeout": task.timeout.map(time),
        "limits": task.limits.iter().map(limit).collect::<Value>(),
        "keep": {
            "completed": time(task.keep.completed),
            "failed": time(task.keep.failed),
        },
        "docs": task.docs.trim(),
        "package": task.package,
        "file": task.place.file,
        "line": task.place.line,
        "payload_schema": task.payload_schema(),
        "output_schema": task.output_schema(),
    })
}

/// The error for a task that neither this program nor the database knows.
pub(super) async fn unknown(conductor: &Conductor, name: &str) -> Done<Error> {
    const FEW: usize = 20;
    let mut known = conductor.task_names().await?;
    known.extend(Registry::global().tasks().map(|task| task.name.to_owned()));
    known.sort();
    known.dedup();
    let mut hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    if known.is_empty() {
        hint.push_str("\n  No task is known: neither this program nor the database has one.");
    } else if known.len() <= FEW {
        let _ = write!(hint, "\n  Known tasks: {}", known.join(", "));
    }
    Ok(Error::UnknownTask {
        name: name.to_owned(),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_few_words_and_as_json() {
        let all = [
            LimitDefinition::concurrency(2),
            LimitDefinition::rate(100, 60_000).key(&["tenant", "id"]),
        ];
        assert_eq!(limits(&[]), "none");
        assert_eq!(limits(&all), "2 at once, 100/1m by tenant.id");
        assert_eq!(
            all.iter().map(limit).collect::<Value>(),
            json!([
                {"kind": "concurrency", "amount": 2, "per": null, "key": null},
                {"kind": "rate", "amount": 100, "per": "1m", "key": "tenant.id"},
            ])
        );
    }
}
