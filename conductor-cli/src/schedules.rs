//! `schedules`: lists, pauses, resumes and triggers schedules.

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, Utc};
use conductor_runtime::client::{Conductor, ScheduleInfo};

use super::arguments::{Named, Schedules, Steer};
use super::fault::{Done, Fault, USAGE};
use super::json;
use super::output::{self, ERROR, FAINT, STRONG, Table};
use super::schedule::{missing, said};

pub(crate) async fn schedules(command: Schedules, conductor: &Conductor) -> Done {
    if command.json && command.command.is_some() {
        let text = "--json is for the list of schedules: leave it out";
        return Err(Fault::new(USAGE, text));
    }
    match command.command {
        None => list(command.json, conductor).await,
        Some(Steer::Pause(Named { task, name })) => {
            if !conductor.schedules().pause(&task, &name).await? {
                return Err(missing(conductor, &task, &name).await?);
            }
            output::print(&format!("{} paused", said(&task, &name)))?;
            Ok(())
        }
        Some(Steer::Resume(Named { task, name })) => {
            if !conductor.schedules().resume(&task, &name).await? {
                return Err(missing(conductor, &task, &name).await?);
            }
            output::print(&format!("{} resumed", said(&task, &name)))?;
            Ok(())
        }
        Some(Steer::Trigger(Named { task, name })) => {
            match conductor.schedules().trigger(&task, &name).await? {
                Some(id) => output::print(&id.to_string())?,
                None => return Err(missing(conductor, &task, &name).await?),
            }
            Ok(())
        }
    }
}

async fn list(json: bool, conductor: &Conductor) -> Done {
    let all = conductor.schedules().await?;
    if json {
        output::print_json(json::lines(&all)?)?;
        return Ok(());
    }
    if all.is_empty() {
        output::note("no schedules");
        return Ok(());
    }
    let now = conductor.inspect().now().await?;
    let mut table = Table::new(&[
        "TASK", "NAME", "KIND", "CRON", "ZONE", "NEXT", "LAST", "STATE",
    ]);
    for schedule in &all {
        let plain = |text: String| (text, Style::new());
        let kind = if schedule.dynamic {
            "dynamic"
        } else {
            "static"
        };
        table.row(vec![
            (output::line(&schedule.task, 40), STRONG),
            plain(output::line(&schedule.name, 40)),
            (kind.to_owned(), FAINT),
            plain(output::line(&schedule.cron, 40)),
            plain(output::line(&schedule.timezone, 40)),
            plain(time(schedule.next_at, now)),
            plain(time(schedule.last_at, now)),
            state(schedule),
        ]);
    }
    output::print(&table.render())?;
    Ok(())
}

/// Returns a time and its distance, such as "2026-05-01 12:00:00 UTC (in 3m)"; empty if there is none.
fn time(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    at.map_or_else(String::new, |at| {
        let relative = output::relative(at, now);
        format!("{} ({relative})", at.format("%Y-%m-%d %H:%M:%S UTC"))
    })
}

fn state(schedule: &ScheduleInfo) -> (String, Style) {
    if let Some(fault) = &schedule.fault {
        return (format!("fault: {}", output::line(fault, 100)), ERROR);
    }
    let (text, style) = if schedule.paused {
        ("paused", AnsiColor::Yellow.on_default())
    } else if schedule.next_at.is_none() {
        ("has had its last tick", FAINT)
    } else if !schedule.served && !schedule.dynamic {
        (
            "rests: no worker that has it is running",
            AnsiColor::Yellow.on_default(),
        )
    } else if !schedule.served {
        (
            "no worker that has the task is running",
            AnsiColor::Yellow.on_default(),
        )
    } else if schedule.retired {
        (
            "goes with the last worker that has it",
            AnsiColor::Yellow.on_default(),
        )
    } else {
        ("active", AnsiColor::Green.on_default())
    };
    (text.to_owned(), style)
}
