//! `invoke`: creates executions and waits for their results.

use std::io::{self, IsTerminal};
use std::time::Duration;

use conductor_runtime::client::{Conductor, Invoked, Status};
use conductor_runtime::error::Error;
use uuid::Uuid;

use super::arguments::Invoke;
use super::fault::{Done, FAILED, Fault};
use super::output::{self, FAINT, styled};
use super::payload::Payload;
use super::{Program, connect, fields, json};

/// The interval at which a waiting command checks whether there is something new to print.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) async fn invoke(command: Invoke, url: Option<&str>, program: &Program) -> Done {
    let task = command.task.as_str();
    let call = format!("{} invoke {}", program.name(), fields::shell(task));
    let payload = Payload::of(task, &command.payload, &call)?;
    let conductor = connect(url).await?;
    let payload = payload.json(&conductor).await?;

    let copies = command.batch.unwrap_or(1) as usize;
    let mut batch = conductor
        .untyped()
        .invoke_batch(task, std::iter::repeat_n(payload.as_str(), copies));
    if let Some(delay) = command.delay {
        batch = batch.delay(delay);
    }
    if let Some(at) = command.run_at {
        batch = batch.run_at(at);
    }
    if let Some(priority) = command.priority {
        batch = batch.priority(priority);
    }
    let keyed =
        command.dedupe_key.is_some() || command.throttle.is_some() || command.debounce.is_some();
    if let Some(key) = command.dedupe_key {
        batch = batch.dedupe_key(key);
    }
    if let Some(slot) = command.throttle {
        batch = batch.throttle(slot);
    }
    if let Some(quiet) = command.debounce {
        batch = batch.debounce(quiet);
    }
    if let Some(most) = command.max_wait {
        batch = batch.max_wait(most);
    }
    let answers = batch.came_of().await?;
    if let (true, Some((_, came_of))) = (keyed, answers.first()) {
        output::note(meaning(*came_of));
    }
    let ids: Vec<Uuid> = answers.into_iter().map(|(id, _)| id).collect();
    if let (Some(_), Some(first), Some(last)) = (command.batch, ids.first(), ids.last()) {
        output::note(&format!("invoked {task} {copies} times: {first} to {last}"));
    }
    if command.wait {
        return results(&conductor, task, &ids, program).await;
    }
    let lines: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    output::print(&lines.join("\n"))?;
    warn_unserved(&conductor, task, program).await;
    Ok(())
}

/// Prints a warning to a terminal if no running worker has the task.
pub(crate) async fn warn_unserved(conductor: &Conductor, task: &str, program: &Program) {
    if io::stderr().is_terminal() && matches!(conductor.inspect().is_served(task).await, Ok(false))
    {
        let text = format!(
            "no worker that has this task is running; start one: {}",
            program.call()
        );
        output::note(&styled(FAINT, &text));
    }
}

/// Returns the outcome of an invoke with a key, in words.
fn meaning(came_of: Invoked) -> &'static str {
    match came_of {
        Invoked::Created => "created: a new execution",
        Invoked::Replaced => "replaced: an execution that had not started has the new payload",
        Invoked::Existing => "existing: the execution has started and was left as it is",
        Invoked::Throttled => "throttled: the slot's execution is an earlier one",
    }
}

async fn results(conductor: &Conductor, task: &str, ids: &[Uuid], program: &Program) -> Done {
    let mut failed = false;
    for id in ids {
        match outcome(conductor, task, *id, program).await {
            Ok(result) => output::print_json([json::compact(&result)])?,
            Err(error @ (Error::Failed { .. } | Error::Cancelled { .. })) => {
                failed = true;
                Fault::from(error).report();
            }
            Err(error) => return Err(error.into()),
        }
    }
    if failed {
        return Err(Fault::silent(FAILED));
    }
    Ok(())
}

/// Waits for the result. In a terminal, prints what the execution waits for whenever that changes.
async fn outcome(
    conductor: &Conductor,
    task: &str,
    id: Uuid,
    program: &Program,
) -> Result<String, Error> {
    let outcome = conductor.untyped().outcome(id);
    if !io::stderr().is_terminal() {
        return outcome.await;
    }
    let mut outcome = std::pin::pin!(outcome);
    let mut said = String::new();
    loop {
        tokio::select! {
            result = &mut outcome => return result,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        // A role that may only invoke cannot read the state of the execution.
        let Ok(news) = news(conductor, task, id, program).await else {
            continue;
        };
        if news != said {
            output::note(&styled(
                FAINT,
                &format!("waiting for execution {id} ({news})"),
            ));
            said = news;
        }
    }
}

async fn news(
    conductor: &Conductor,
    task: &str,
    id: Uuid,
    program: &Program,
) -> Result<String, Error> {
    let Some(info) = conductor.inspect().find(id).await? else {
        return Ok("it is gone".to_owned());
    };
    if let Some(at) = info.run_at.filter(|_| info.postponed) {
        let opens = at.format("%Y-%m-%d %H:%M:%S UTC");
        return Ok(format!("{}: for its window, opens {opens}", info.state));
    }
    let attempt = info.failures + info.crashes + 1;
    if info.state != Status::Pending {
        return Ok(match attempt {
            1 => info.state.to_string(),
            _ => format!("{}, attempt {attempt}", info.state),
        });
    }
    let due = info.run_at.filter(|at| *at > info.created_at);
    Ok(match (due, &info.error) {
        (Some(at), Some(error)) => format!(
            "attempt {} failed: {}; next one at {}",
            attempt - 1,
            output::line(error, 60),
            at.format("%H:%M:%S UTC")
        ),
        (Some(at), None) => format!("pending: due {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
        (None, _) if conductor.inspect().is_served(task).await? => {
            "pending: no worker has taken it yet".to_owned()
        }
        (None, _) => format!(
            "pending: no worker that has this task is running; start one: {}",
            program.call()
        ),
    })
}
