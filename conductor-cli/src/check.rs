//! `check`: checks whether this program is compatible with the database.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use conductor_runtime::check::{Finding, Report};
use serde_json::{Value, json};

use super::arguments::Check;
use super::db;
use super::fault::{Done, FAILED, Fault};
use super::output::{self, ERROR, STRONG, Table};

/// The maximum number of columns of a finding's text.
const COLUMNS: usize = 300;
const CHANGE: Style = AnsiColor::Yellow.on_default();

pub(crate) async fn check(command: Check, url: Option<&str>) -> Done {
    let conductor = db::open(url).await?;
    let mut check = conductor.check();
    if let Some(most) = command.at_most {
        check = check.at_most(most);
    }
    let shown = io::stderr().is_terminal();
    let mut last = Instant::now();
    if shown {
        check = check.on_progress(move |executions| {
            if last.elapsed() > Duration::from_millis(200) {
                last = Instant::now();
                // A failure to show the progress does not matter.
                let _ = write!(io::stderr(), "\r{executions} executions looked at");
            }
        });
    }
    let checked = check.await;
    if shown {
        let _ = write!(io::stderr(), "\r{:40}\r", "");
    }
    let report = checked?;
    // A new input is told, but no deploy mends what a handler did in an earlier run.
    let passes = |finding: &Finding| {
        matches!(finding, Finding::NewInput { .. }) || command.allow_changes && finding.is_change()
    };
    let ok = report.findings.iter().all(passes);
    output::print(&if command.json {
        object(&report, ok).to_string()
    } else {
        text(&report)
    })?;
    if ok {
        Ok(())
    } else {
        Err(Fault::silent(FAILED))
    }
}

fn text(report: &Report) -> String {
    let looked = format!(
        "{} executions and {} records looked at{}",
        report.executions,
        report.records,
        if report.complete {
            ""
        } else {
            "; there are more"
        }
    );
    if report.findings.is_empty() {
        return format!(
            "schema version {}; {looked}: all is well",
            report.database_version
        );
    }
    let mut table = Table::new(&["WHAT", "ABOUT", "FINDING"]);
    for finding in &report.findings {
        let (sort, style) = if finding.is_change() {
            ("change", CHANGE)
        } else {
            ("problem", ERROR)
        };
        table.row(vec![
            (sort.to_owned(), style),
            (output::line(finding.subject(), 40), STRONG),
            (output::line(&finding.text(), COLUMNS), Style::new()),
        ]);
    }
    format!("{}\n{looked}", table.render())
}

fn object(report: &Report, ok: bool) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let mut members = json!(finding);
            members["change_only"] = json!(finding.is_change());
            members["text"] = json!(finding.to_string());
            members
        })
        .collect();
    json!({
        "ok": ok,
        "database_version": report.database_version,
        "binary_version": report.binary_version,
        "executions": report.executions,
        "records": report.records,
        "complete": report.complete,
        "findings": findings,
    })
}
