//! `emit` and `events`: emits an event, and lists recent events.

use std::time::Duration;

use anstyle::Style;
use conductor_runtime::client::Conductor;
use conductor_runtime::event::EventEffect;

use super::arguments::{Emit, Events};
use super::fault::{Done, FAILED, Fault, USAGE};
use super::output::{self, FAINT, Table};
use super::payload::{checked, whole};
use super::{Program, connect, fields, json};

/// The columns of a name.
const NAME: usize = 40;
/// The columns of a payload.
const PAYLOAD: usize = 100;

pub(crate) async fn emit(command: Emit, url: Option<&str>, program: &Program) -> Done {
    let name = command.event.as_str();
    let conductor = connect(url).await?;
    let schema = conductor.inspect().event_schema(name).await?;
    let payload = match command.payload.json.as_deref() {
        Some(json) => {
            let call = format!("{} emit {}", program.name(), fields::shell(name));
            checked(whole(json)?, &format!("event {name:?}"), &call, &schema)?
        }
        None => fields::payload(&schema, &command.payload.fields).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(|p| format!("\n  - {p}")).collect();
            Fault::new(
                USAGE,
                format!(
                    "the fields do not fit event {name:?}:{}\n  Usage: {} emit {} {}",
                    problems.concat(),
                    program.name(),
                    fields::shell(name),
                    fields::usage(&schema)
                ),
            )
        })?,
    };
    if command.wait {
        let effect = conductor
            .untyped()
            .emit_watched(name, &payload, command.timeout)
            .await?;
        return tell(name, &effect, command.timeout, program);
    }
    let id = conductor.untyped().emit(name, &payload).await?;
    output::print(&id.to_string())?;
    Ok(())
}

/// Prints which executions an event started and woke.
fn tell(name: &str, effect: &EventEffect, budget: Duration, program: &Program) -> Done {
    let mut lines = vec![effect.id.to_string()];
    for (what, affected) in [("started", &effect.started), ("woke", &effect.woken)] {
        lines.extend(affected.iter().map(|affected| {
            let task = output::line(&affected.task, NAME);
            format!("{what} {task} {}", affected.execution_id)
        }));
    }
    output::print(&lines.join("\n"))?;
    if !effect.complete {
        return Err(Fault::new(
            FAILED,
            format!(
                "within {} not all who wait for {name:?} could be looked at: a worker does that; is \
                 one running? Start one: {}",
                humantime::format_duration(budget),
                program.call()
            ),
        ));
    }
    if effect.started.is_empty() && effect.woken.is_empty() {
        output::note(&format!(
            "nobody was started or woken: no task is subscribed to such an event {name:?}, and no \
             execution waits for one"
        ));
    }
    Ok(())
}

pub(crate) async fn events(command: Events, conductor: &Conductor) -> Done {
    let found = conductor
        .inspect()
        .events(command.event.as_deref(), command.limit)
        .await?;
    if found.is_empty() {
        output::note("no events");
        return Ok(());
    }
    if command.json {
        output::print_json(json::lines(&found)?)?;
        return Ok(());
    }
    let now = conductor.inspect().now().await?;
    let mut table = Table::new(&["ID", "EVENT", "AGE", "PAYLOAD"]);
    for event in &found {
        let plain = |text: String| (text, Style::new());
        let payload = json::compact(event.payload.get());
        table.row(vec![
            plain(event.id.to_string()),
            plain(output::line(&event.name, 40)),
            plain(output::short(now - event.emitted_at)),
            (output::line(&payload, PAYLOAD), FAINT),
        ]);
    }
    output::print(&table.render())?;
    Ok(())
}
