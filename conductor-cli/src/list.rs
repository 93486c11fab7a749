//! `list`: lists executions in a table.

use anstyle::Style;
use chrono::{DateTime, TimeDelta, Utc};
use conductor_runtime::client::{Conductor, ExecutionInfo, Filter, Status, Stuck};
use serde_json::value::RawValue;

use super::arguments::List;
use super::fault::Done;
use super::output::{self, ERROR, FAINT, Table, of_state};
use super::{json, tasks};

pub(crate) async fn list(command: List, conductor: &Conductor) -> Done {
    let filter = Filter {
        task: command.task,
        queue: command.queue,
        state: command.state,
        newer_than: command.newer_than,
        limit: command.limit,
    };
    let found = conductor.inspect().list(&filter).await?;
    if found.is_empty() {
        if let Some(task) = &filter.task {
            tasks::refuse_unknown(conductor, task).await?;
        }
        output::note("no executions");
        return Ok(());
    }
    if command.json {
        output::print_json(found.iter().map(object))?;
        return Ok(());
    }
    let now = conductor.inspect().now().await?;
    let mut table = Table::new(&[
        "ID", "TASK", "QUEUE", "STATE", "AGE", "TOOK", "FAILURES", "NOTE",
    ]);
    for info in &found {
        let plain = |text: String| (text, Style::new());
        let took = info
            .finished_at
            .zip(info.claimed_at)
            .map(|(end, start)| output::short(end - start));
        table.row(vec![
            plain(info.id.to_string()),
            plain(output::line(&info.task, 40)),
            plain(output::line(&info.queue, 20)),
            (info.state.to_string(), of_state(info.state)),
            plain(output::short(now - info.created_at)),
            plain(took.unwrap_or_default()),
            plain((info.failures + info.crashes).to_string()),
            match info.stuck {
                Some(stuck) => (stuck_note(stuck), ERROR),
                None => (note(info, now), FAINT),
            },
        ]);
    }
    output::print(&table.render())?;
    Ok(())
}

fn stuck_note(stuck: Stuck) -> String {
    match stuck {
        Stuck::Overtime(by) => format!(
            "stuck? {} over its timeout",
            output::short(TimeDelta::from_std(by).unwrap_or(TimeDelta::MAX))
        ),
        _ => "stuck? its process is gone".to_owned(),
    }
}

/// Returns the note on an execution: its error, or what it waits for.
fn note(info: &ExecutionInfo, now: DateTime<Utc>) -> String {
    let due = info.run_at.filter(|at| *at > now);
    if let Some(reason) = &info.unreadable {
        return output::line(reason, 60);
    }
    match (info.state, due, &info.error) {
        (_, Some(at), _) if info.postponed => output::window(at, now),
        (Status::Pending, Some(at), None) => format!("due {}", output::relative(at, now)),
        (Status::Pending, Some(at), Some(error)) => {
            format!(
                "retry {}: {}",
                output::relative(at, now),
                output::line(error, 40)
            )
        }
        (_, _, Some(error)) => output::line(error, 60),
        (Status::Suspended, ..) => match info.event.as_deref() {
            Some(name) => match output::row_change(name) {
                Some(change) => format!("waits for {}", output::line(change, 40)),
                None => format!("waits for event {}", output::line(name, 40)),
            },
            None => String::new(),
        },
        _ => String::new(),
    }
}

/// Returns all fields as one line of JSON.
pub(crate) fn object(info: &ExecutionInfo) -> String {
    json::compact(&members(info, Vec::new()))
}

/// Returns all fields and additional members as a JSON object. The values of the members are JSON.
pub(crate) fn members(info: &ExecutionInfo, more: Vec<(&str, String)>) -> String {
    let text = |value: serde_json::Value| value.to_string();
    let raw = |json: Option<&RawValue>| json.map_or("null", RawValue::get).to_owned();
    let time = |at: Option<DateTime<Utc>>| text(serde_json::json!(at));
    let mut members = vec![
        ("id", text(info.id.to_string().into())),
        ("task", text(info.task.as_str().into())),
        ("queue", text(info.queue.as_str().into())),
        ("state", text(info.state.as_str().into())),
        ("priority", info.priority.to_string()),
        ("created_at", time(Some(info.created_at))),
        ("run_at", time(info.run_at)),
        ("claimed_at", time(info.claimed_at)),
        ("finished_at", time(info.finished_at)),
        ("failures", info.failures.to_string()),
        ("crashes", info.crashes.to_string()),
        ("claim", info.claim.to_string()),
        ("retry_of", text(serde_json::json!(info.retry_of))),
        ("dedupe_key", text(serde_json::json!(info.dedupe_key))),
        ("trigger", text(serde_json::json!(info.trigger))),
        ("postponed", info.postponed.to_string()),
        ("event", text(serde_json::json!(info.event))),
        ("unreadable", text(serde_json::json!(info.unreadable))),
        ("payload", raw(Some(&info.payload))),
        ("output", raw(info.output.as_deref())),
        ("error", text(serde_json::json!(info.error))),
        ("failure", raw(info.failure.as_deref())),
        ("stuck", text(serde_json::json!(info.stuck.map(stuck_note)))),
    ];
    members.extend(more);
    json::object(members)
}
