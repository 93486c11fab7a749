//! `show`: the story of one execution.

use chrono::{DateTime, Utc};
use conductor_runtime::client::{Conductor, ExecutionInfo, Failure, Status};
use conductor_runtime::error::Error;
use conductor_runtime::registry::Registry;
use serde_json::json;

use super::arguments::Show;
use super::fault::Done;
use super::output::{self, FAINT, STRONG, moment, of_state, styled};
use super::{json, list};

pub(super) async fn show(command: Show, conductor: &Conductor) -> Done {
    let info = conductor
        .find(command.id)
        .await?
        .ok_or(Error::NotFound(command.id))?;
    let failures = conductor.failures(info.id).await?;
    if command.json {
        let failures: serde_json::Value = failures
            .iter()
            .map(|f| json!({ "attempt": f.attempt, "failed_at": f.failed_at, "error": f.error }))
            .collect();
        let object = list::members(&info, &[("attempts_failed", failures)]);
        output::print(&json::pretty(&object, ""))?;
        return Ok(());
    }
    let now = conductor.now().await?;
    let served = conductor.is_served(&info.task).await?;
    output::print(&story(&info, &failures, now, served))?;
    Ok(())
}

fn story(info: &ExecutionInfo, failures: &[Failure], now: DateTime<Utc>, served: bool) -> String {
    let mut out: Vec<String> = Vec::new();
    out.push(format!(
        "{} {}  {}",
        styled(STRONG, &output::line(&info.task, 100)),
        info.id,
        styled(of_state(info.state), info.state.as_str())
    ));
    let mut row = |name: &str, text: String| {
        out.push(format!("├ {} {text}", styled(FAINT, &format!("{name:<8}"))));
    };
    row(
        "queue",
        format!(
            "{}, priority {}",
            output::line(&info.queue, 100),
            info.priority
        ),
    );
    if let Some(before) = info.retry_of {
        row("repeats", before.to_string());
    }
    row("invoked", moment(info.created_at, now));
    if let Some(at) = info.claimed_at {
        row(
            "claimed",
            format!("{}, claim {}", moment(at, now), info.claim),
        );
    }
    if let Some(at) = info.finished_at {
        let took = info.claimed_at.map(|start| output::short(at - start));
        let took = took.map_or_else(String::new, |took| format!(", ran {took}"));
        row("ended", format!("{}{took}", moment(at, now)));
    }
    if let Some(waits) = waits(info, now, served) {
        row("waits", waits);
    }
    if let Some(attempts) = attempts(info) {
        row("attempts", attempts);
    }
    for (at, failure) in failures.iter().enumerate() {
        let branch = if at + 1 == failures.len() {
            '└'
        } else {
            '├'
        };
        out.push(format!(
            "│   {branch} {}  {}",
            failure.attempt,
            moment(failure.failed_at, now)
        ));
        let bar = if at + 1 == failures.len() { ' ' } else { '│' };
        for line in output::lines(&failure.error).lines() {
            out.push(format!("│   {bar}    {line}"));
        }
    }
    let last = info.output.is_none() && reason(info, failures).is_none();
    section(
        &mut out,
        "payload",
        &json::pretty(info.payload.get(), ""),
        last,
    );
    if let Some(output) = &info.output {
        section(&mut out, "output", &json::pretty(output.get(), ""), true);
    } else if let Some((name, text)) = reason(info, failures) {
        section(&mut out, name, &output::lines(text), true);
    }
    out.join("\n")
}

fn section(out: &mut Vec<String>, name: &str, text: &str, last: bool) {
    let (branch, bar) = if last { ('└', ' ') } else { ('├', '│') };
    out.push(format!("{branch} {}", styled(FAINT, name)));
    out.extend(text.lines().map(|line| format!("{bar}   {line}")));
}

/// The text of the end, where the attempts do not tell it already.
fn reason<'i>(info: &'i ExecutionInfo, failures: &[Failure]) -> Option<(&'static str, &'i str)> {
    let text = info.error.as_deref()?;
    match info.state {
        Status::Cancelled => Some(("reason", text)),
        _ if failures.iter().any(|failure| failure.error == text) => None,
        _ => Some(("error", text)),
    }
}

fn waits(info: &ExecutionInfo, now: DateTime<Utc>, served: bool) -> Option<String> {
    if info.state != Status::Pending {
        return None;
    }
    Some(match info.run_at.filter(|at| *at > now) {
        Some(at) if info.failures > 0 => {
            format!("for its next attempt, due {}", output::relative(at, now))
        }
        Some(at) => format!("for its time, {}", moment(at, now)),
        None if served => "for a free worker".to_owned(),
        None => "for a worker: none that has this task is running".to_owned(),
    })
}

fn attempts(info: &ExecutionInfo) -> Option<String> {
    let mut parts = Vec::new();
    if info.failures > 0 {
        let of = Registry::global()
            .get(&info.task)
            .map_or_else(String::new, |task| {
                format!(" of {}", task.retry.max_attempts)
            });
        parts.push(format!("{}{of} failed", info.failures));
    }
    if info.crashes > 0 {
        parts.push(format!("{} died with their process", info.crashes));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}
