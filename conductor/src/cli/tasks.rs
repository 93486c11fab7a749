//! `tasks`: what this program can do; and the answer to a name that nobody knows.

use std::fmt::Write as _;

use anstyle::Style;
use conductor_runtime::client::Conductor;
use conductor_runtime::error::Error;
use conductor_runtime::registry::{Registry, nearest};
use conductor_runtime::task::TaskDefinition;
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
        "TASK", "QUEUE", "PRIORITY", "RETRIES", "TIMEOUT", "PLACE", "ABOUT",
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
