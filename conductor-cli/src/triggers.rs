//! `triggers`: lists the table triggers that tasks and waits need, and their errors.

use anstyle::{AnsiColor, Style};
use conductor_runtime::client::Conductor;
use conductor_runtime::row::{RowFault, RowTriggerInfo};
use serde_json::json;

use super::arguments::Triggers;
use super::fault::Done;
use super::output::{self, ERROR, FAINT, STRONG, Table};

const UNNEEDED: Style = AnsiColor::Yellow.on_default();

pub(crate) async fn triggers(command: Triggers, conductor: &Conductor) -> Done {
    let triggers = conductor.inspect().row_triggers().await?;
    if command.sql {
        return sql(&triggers);
    }
    let faults = conductor.inspect().row_faults().await?;
    if command.json {
        let faults = faults.iter().map(fault_object);
        output::print_json(triggers.iter().map(object).chain(faults))?;
        return Ok(());
    }
    if triggers.is_empty() && faults.is_empty() {
        output::note("no task and no wait wants to hear of a table");
        return Ok(());
    }
    let mut table = Table::new(&["TABLE", "ON", "STATE", "FOR"]);
    for trigger in &triggers {
        let (state, style) = state(trigger);
        table.row(vec![
            (output::line(&trigger.table, 60), STRONG),
            (trigger.op.to_string(), Style::new()),
            (state.to_owned(), style),
            (output::line(&wanted_by(trigger), 100), Style::new()),
        ]);
    }
    output::print(&table.render())?;
    if triggers.iter().any(|trigger| trigger.sql.is_some()) {
        output::note(
            "a worker makes what is missing and drops what nothing needs; `triggers --sql` prints \
             it for those who do so by hand",
        );
    }
    told(&faults)
}

/// Prints the errors, if there are any.
fn told(faults: &[RowFault]) -> Done {
    if faults.is_empty() {
        return Ok(());
    }
    output::print("")?;
    let mut table = Table::new(&["FAULT AT", "ON", "FOR", "TIMES", "LAST", "MESSAGE"]);
    for fault in faults {
        let plain = |text: String| (text, Style::new());
        table.row(vec![
            (output::line(&fault.table, 60), ERROR),
            plain(fault.op.clone()),
            plain(output::line(fault.task.as_deref().unwrap_or("waits"), 40)),
            plain(fault.times.to_string()),
            plain(fault.last_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
            (output::line(&fault.message, 100), FAINT),
        ]);
    }
    output::print(&table.render())?;
    Ok(())
}

fn sql(triggers: &[RowTriggerInfo]) -> Done {
    let statements: Vec<String> = triggers
        .iter()
        .filter_map(|trigger| Some(format!("{};", trigger.sql.as_ref()?)))
        .collect();
    if statements.is_empty() {
        output::note("nothing to do: every trigger that is needed is there");
        return Ok(());
    }
    // Writers of the table queue up behind a statement that waits for its lock, so it must not wait for long.
    output::print("set lock_timeout = '2s';")?;
    output::print(&statements.join("\n"))?;
    Ok(())
}

fn state(trigger: &RowTriggerInfo) -> (&'static str, Style) {
    match (trigger.is_needed(), trigger.installed, trigger.enabled) {
        (true, false, _) => ("missing", ERROR),
        (true, true, false) => ("disabled", ERROR),
        (true, true, true) => ("there", AnsiColor::Green.on_default()),
        (false, ..) => ("not needed", UNNEEDED),
    }
}

fn wanted_by(trigger: &RowTriggerInfo) -> String {
    let mut wanted = trigger.tasks.join(", ");
    if !trigger.watches.is_empty() {
        let waits = match trigger.watches.len() {
            1 => "waits".to_owned(),
            many => format!("waits of {many} kinds"),
        };
        let comma = if wanted.is_empty() { "" } else { ", " };
        wanted = format!("{wanted}{comma}{waits}");
    }
    wanted
}

fn object(trigger: &RowTriggerInfo) -> String {
    json!({
        "table": trigger.table,
        "op": trigger.op,
        "state": state(trigger).0,
        "tasks": trigger.tasks,
        "watches": trigger.watches,
        "sql": trigger.sql,
    })
    .to_string()
}

fn fault_object(fault: &RowFault) -> String {
    json!({
        "fault": fault.message,
        "table": fault.table,
        "op": fault.op,
        "task": fault.task,
        "code": fault.code,
        "times": fault.times,
        "first_at": fault.first_at,
        "last_at": fault.last_at,
    })
    .to_string()
}
