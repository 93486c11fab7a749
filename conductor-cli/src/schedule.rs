//! `schedule` and `unschedule`: creates and removes a schedule.

use conductor_core::nearest;
use conductor_runtime::client::{Conductor, ScheduleInfo};

use super::arguments::{Named, Schedule};
use super::fault::{Done, FAILED, Fault};
use super::invoke::warn_unserved;
use super::output::{self, moment};
use super::payload::Payload;
use super::{Program, connect, fields, tasks};

pub(crate) async fn schedule(command: Schedule, url: Option<&str>, program: &Program) -> Done {
    let (task, name) = (command.task.as_str(), command.name.as_str());
    let call = [task, name, &command.cron].map(fields::shell).join(" ");
    let call = format!("{} schedule {call}", program.name());
    let payload = Payload::of(task, &command.payload, &call)?;
    let conductor = connect(url).await?;
    let payload = payload.json(&conductor).await?;
    conductor
        .untyped()
        .schedule(task, name, &command.cron, &payload)
        .timezone(&command.timezone)
        .missed(command.missed)
        .overlap(command.overlap)
        .await?;
    let made = find(&conductor, task, name).await?;
    let made = made.into_iter().find(|schedule| schedule.dynamic);
    let next = match made.and_then(|schedule| schedule.next_at) {
        Some(at) => format!("next at {}", moment(at, conductor.inspect().now().await?)),
        None => "no tick will come".to_owned(),
    };
    output::print(&format!("{} scheduled, {next}", said(task, name)))?;
    warn_unserved(&conductor, task, program).await;
    Ok(())
}

pub(crate) async fn unschedule(command: Named, conductor: &Conductor, program: &Program) -> Done {
    let (task, name) = (command.task.as_str(), command.name.as_str());
    if conductor.untyped().unschedule(task, name).await? {
        output::print(&format!("{} removed", said(task, name)))?;
        return Ok(());
    }
    if find(conductor, task, name).await?.is_empty() {
        return Err(missing(conductor, task, name).await?);
    }
    Err(Fault::new(
        FAILED,
        format!(
            "{} is declared by the code and goes with it; to stop it: {} schedules pause {} {}",
            said(task, name),
            program.name(),
            fields::shell(task),
            fields::shell(name)
        ),
    ))
}

/// Returns the schedules of this task and name: a dynamic one, a static one, or both.
async fn find(conductor: &Conductor, task: &str, name: &str) -> Done<Vec<ScheduleInfo>> {
    let mut found = conductor.schedules().await?;
    found.retain(|schedule| schedule.task == task && schedule.name == name);
    Ok(found)
}

/// Returns the given names on one line.
pub(crate) fn said(task: &str, name: &str) -> String {
    format!(
        "schedule {} of task {}",
        output::line(name, 100),
        output::line(task, 100)
    )
}

/// Returns the error for a schedule that does not exist.
pub(crate) async fn missing(conductor: &Conductor, task: &str, name: &str) -> Done<Fault> {
    tasks::refuse_unknown(conductor, task).await?;
    let known = conductor.schedules().await?;
    let known: Vec<&str> = known
        .iter()
        .filter(|schedule| schedule.task == task)
        .map(|schedule| schedule.name.as_str())
        .collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None if known.is_empty() => "; it has none".to_owned(),
        None => format!("; it has {}", known.join(", ")),
    };
    Ok(Fault::new(
        FAILED,
        format!("task {task:?} has no schedule {name:?}{hint}"),
    ))
}
