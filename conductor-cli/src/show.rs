//! `show`: shows the details of an execution.

use conductor_runtime::client::{Brief, Child, Conductor, StepKey, Story};
use conductor_runtime::error::Error;
use serde_json::{Value, json};

use super::arguments::Show;
use super::children::Family;
use super::fault::Done;
use super::{json, list, output, story};

pub(crate) async fn show(command: Show, conductor: &Conductor) -> Done {
    let mut told = conductor
        .inspect()
        .story(command.id)
        .await?
        .ok_or(Error::NotFound(command.id))?;
    if command.json {
        output::print_json([json::pretty(&object(&told), "")])?;
        return Ok(());
    }
    let children = std::mem::take(&mut told.children);
    let family = Family::of(conductor, told.info.id, children, told.now).await?;
    output::print(&story::tree(&told, &family).render())?;
    Ok(())
}

/// Returns all fields as JSON, with stored values as they were written.
fn object(told: &Story) -> String {
    let attempts: Value = told
        .failures
        .iter()
        .map(|f| json!({ "attempt": f.attempt, "failed_at": f.failed_at, "error": f.error }))
        .collect();
    let steps = told.steps.iter().map(|step| {
        json::object([
            ("key", json!(step.key.name).to_string()),
            ("part", json!(step.key.part).to_string()),
            ("kind", json!(step.kind).to_string()),
            ("recorded_at", json!(step.recorded_at).to_string()),
            ("value", step.value.get().to_owned()),
        ])
    });
    let waits: Value = told
        .waits
        .iter()
        .map(|wait| {
            json!({
                "key": wait.key.name, "part": wait.key.part, "kind": wait.kind, "event": wait.event,
                "wake_at": wait.wake_at, "child_id": wait.child_id,
            })
        })
        .collect();
    let children: Value = told.children.iter().map(child).collect();
    let parent = told
        .parent
        .as_ref()
        .map(|parent| relative(json!({ "id": parent.id }), parent.execution.as_ref()));
    let runner = told.runner.as_ref().map(|runner| {
        let process = runner.process.as_ref();
        json!({
            "orchestrator": runner.orchestrator,
            "host": process.map(|process| &process.host),
            "pid": process.map(|process| process.pid),
            "lease_left_ms": process.map(|process| process.lease_left.num_milliseconds()),
        })
    });
    let more = vec![
        ("attempts_failed", attempts.to_string()),
        ("steps", json::array(steps)),
        ("waits", waits.to_string()),
        ("children", children.to_string()),
        ("parent", json!(parent).to_string()),
        ("runner", json!(runner).to_string()),
        ("served", told.served.to_string()),
        ("new_input", json!(told.new_input).to_string()),
        ("why", json!(told.why).to_string()),
        ("cancelled", told.cancelled.to_string()),
        ("cancel_reason", json!(told.cancel_reason).to_string()),
    ];
    list::members(&told.info, more)
}

fn child(child: &Child) -> Value {
    let key = child.key.as_ref();
    let members = json!({
        "id": child.id,
        "key": key.map(|key| &key.name),
        "part": key.and_then(|key: &StepKey| key.part),
        "recorded": child.recorded,
    });
    relative(members, child.execution.as_ref())
}

/// Adds the summary of a related execution; its members are null if that execution was removed.
fn relative(mut members: Value, brief: Option<&Brief>) -> Value {
    members["task"] = json!(brief.map(|brief| &brief.task));
    members["state"] = json!(brief.map(|brief| brief.state.as_str()));
    members["run_at"] = json!(brief.map(|brief| brief.run_at));
    members["postponed"] = json!(brief.map(|brief| brief.postponed));
    members["created_at"] = json!(brief.map(|brief| brief.created_at));
    members["finished_at"] = json!(brief.map(|brief| brief.finished_at));
    members["error"] = json!(brief.map(|brief| &brief.error));
    members["served"] = json!(brief.map(|brief| brief.served));
    members
}
