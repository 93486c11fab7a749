//! `tasks`: lists the tasks of this program. Also the errors for unknown task names.

use std::fmt::Write as _;

use anstyle::Style;
use conductor_core::nearest;
use conductor_runtime::client::Conductor;
use conductor_runtime::error::Error;
use conductor_runtime::registry::Registry;
use conductor_runtime::task::{CronDefinition, LimitDefinition, LimitKind, WindowDefinition};
use serde_json::{Value, json};

use super::arguments::Tasks;
use super::fault::Done;
use super::output::{self, FAINT, STRONG, Table};

pub(crate) fn tasks(command: Tasks) -> Done {
    let tasks = Registry::global().tasks();
    if command.json {
        let all: Value = tasks.map(|task| json!(task)).collect();
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
    // Most tasks have none of these, so their columns are shown only if needed.
    let has_limits = tasks
        .iter()
        .any(|task| !task.limits.is_empty() || !task.ordered_by.is_empty());
    let has_crons = tasks.iter().any(|task| !task.crons.is_empty());
    let has_windows = tasks.iter().any(|task| task.window.is_some());
    let mut header = vec!["TASK", "QUEUE", "PRIORITY", "RETRIES", "TIMEOUT"];
    header.extend(has_limits.then_some("LIMITS"));
    header.extend(has_crons.then_some("CRON"));
    header.extend(has_windows.then_some("WINDOW"));
    header.extend(["PLACE", "ABOUT"]);
    let mut table = Table::new(&header);
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
        let mut row = vec![
            (output::line(task.name, 100), STRONG),
            plain(output::line(task.queue, 100)),
            plain(task.priority.to_string()),
            plain(retries),
            plain(timeout.unwrap_or_else(|| "none".to_owned())),
        ];
        if has_limits {
            row.push(plain(words(task.limits, task.ordered_by)));
        }
        if has_crons {
            let rules: Vec<String> = task.crons.iter().map(rule).collect();
            row.push(plain(rules.join("; ")));
        }
        if has_windows {
            row.push(plain(task.window.as_ref().map(hours).unwrap_or_default()));
        }
        let about = task.docs.trim().lines().next().unwrap_or_default();
        row.push((task.place.to_string(), FAINT));
        row.push(plain(output::line(about, 80)));
        table.row(row);
    }
    output::print(&table.render())?;
    Ok(())
}

/// Returns the limits in words, such as "2 at once, 100/1m by tenant.id, in order by account".
fn words(limits: &[LimitDefinition], ordered_by: &[&str]) -> String {
    let limits = limits.iter().map(|limit| {
        let amount = match limit.kind {
            LimitKind::Concurrency => format!("{} at once", limit.amount),
            LimitKind::Rate { per, burst } => {
                let rate = format!("{}/{}", limit.amount, humantime::format_duration(per));
                match burst {
                    1 => rate,
                    burst => format!("{rate}, {burst} at once"),
                }
            }
        };
        let shared = limit.name.map(|name| format!(" of {name:?}"));
        let amount = format!("{amount}{}", shared.unwrap_or_default());
        match limit.path {
            [] => amount,
            path => format!("{amount} by {}", path.join(".")),
        }
    });
    let order = (!ordered_by.is_empty()).then(|| format!("in order by {}", ordered_by.join(".")));
    let limits: Vec<String> = limits.chain(order).collect();
    output::line(&limits.join(", "), 100)
}

/// Returns a cron rule in words, such as "0 9 * * Mon-Fri Europe/Berlin".
fn rule(cron: &CronDefinition) -> String {
    in_zone(cron.cron.to_owned(), cron.timezone)
}

/// Returns a window in words, such as "22:00-06:00 Mon-Fri Europe/Berlin".
fn hours(window: &WindowDefinition) -> String {
    let days = window.days.map(|days| format!(" {days}"));
    let hours = format!("{}{}", window.times, days.unwrap_or_default());
    in_zone(hours, window.timezone)
}

fn in_zone(text: String, zone: &str) -> String {
    match zone {
        "UTC" => text,
        zone => format!("{text} {zone}"),
    }
}

/// Fails if neither this program nor the database has the task.
pub(crate) async fn refuse_unknown(conductor: &Conductor, task: &str) -> Done {
    let declared = conductor.inspect().task_names().await?;
    if Registry::global().get(task).is_some() || declared.iter().any(|name| name == task) {
        return Ok(());
    }
    Err(unknown(conductor, task).await?.into())
}

/// Returns the error for a task that neither this program nor the database has.
pub(crate) async fn unknown(conductor: &Conductor, name: &str) -> Done<Error> {
    const FEW: usize = 20;
    let mut known = conductor.inspect().task_names().await?;
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
    fn limits_are_told_in_few_words() {
        let all = [
            LimitDefinition::concurrency(2),
            LimitDefinition::rate(100, 60_000).key(&["tenant", "id"]),
            LimitDefinition::concurrency(5).shared("stripe"),
        ];
        assert_eq!(words(&[], &[]), "");
        assert_eq!(
            words(&all, &["account"]),
            "2 at once, 100/1m by tenant.id, 5 at once of \"stripe\", in order by account"
        );
    }

    #[test]
    fn a_window_tells_its_days_and_a_zone_that_is_not_utc() {
        let window = WindowDefinition::new("22:00-06:00");
        assert_eq!(hours(&window), "22:00-06:00");
        let window = window.days("Mon-Fri").timezone("Europe/Berlin");
        assert_eq!(hours(&window), "22:00-06:00 Mon-Fri Europe/Berlin");
    }
}
