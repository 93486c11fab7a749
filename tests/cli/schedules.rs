//! Schedules on the command line; and what is said of executions that wait for their window.

use std::time::Duration;

use chrono::{NaiveTime, TimeDelta};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{ScheduleInfo, Status, Trigger};
use serde_json::{Value, json};
use uuid::Uuid;

use super::program::Program;
use super::{NOWHERE, lines, refused};
use crate::support::info;

#[task(name = "cli-schedules.night", window = "22:00-06:00")]
async fn cli_schedules_night(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "cli-schedules.parent", window = "21:00-20:00")]
async fn cli_schedules_parent(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(ctx.invoke::<CliSchedulesNight>("night", ()).await?)
}

async fn only(test: &TestConductor) -> ScheduleInfo {
    let mut all = test.schedules().await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[conductor::test]
async fn a_schedule_is_made_listed_steered_and_removed(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::example("05_dynamic_schedule", &test);
    assert_eq!(program.run(&["schedules"]).err, "no schedules\n");
    assert_eq!(program.ok(&["schedules", "--json"]), "");
    let said = program.ok(&[
        "schedule",
        "dynamic",
        "new year",
        "0 0 1 1 *",
        "word=42",
        "--timezone",
        "Europe/Berlin",
        "--missed",
        "all",
        "--overlap",
        "skip",
    ]);
    let start = "schedule new year of task dynamic scheduled, next at ";
    assert!(
        said.starts_with(start) && said.contains("-12-31 23:00:00 UTC (in "),
        "{said}"
    );
    let made = only(&test).await;
    assert_eq!(
        (
            made.name.as_str(),
            made.cron.as_str(),
            made.timezone.as_str()
        ),
        ("new year", "0 0 1 1 *", "Europe/Berlin")
    );
    assert_eq!(
        (made.missed.as_str(), made.overlap.as_str()),
        ("all", "skip")
    );
    assert_eq!(made.payload.unwrap().get(), r#"{"word":"42"}"#);

    let table = program.ok(&["schedules"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    // Under their headers.
    for (header, text) in [
        ("TASK", "dynamic"),
        ("NAME", "new year"),
        ("KIND", "dynamic"),
        ("CRON", "0 0 1 1 *"),
        ("ZONE", "Europe/Berlin"),
        ("STATE", "no worker that has the task is running"),
    ] {
        let at = rows[0].find(header).unwrap();
        assert!(rows[1][at..].starts_with(text), "{header}: {table}");
    }
    let told = lines(&program.ok(&["schedules", "--json"]));
    assert_eq!(told[0]["payload"], json!({ "word": "42" }));
    assert_eq!(told[0]["next_at"], json!(made.next_at));
    assert_eq!(told[0]["last_at"], Value::Null);

    let names = ["dynamic", "new year"];
    let steer = |word: &str| program.ok(&["schedules", word, names[0], names[1]]);
    assert_eq!(steer("pause"), "schedule new year of task dynamic paused");
    assert!(only(&test).await.paused);
    assert!(program.ok(&["schedules"]).ends_with("paused"));
    assert_eq!(steer("resume"), "schedule new year of task dynamic resumed");
    assert!(!only(&test).await.paused);
    let id: Uuid = steer("trigger").parse()?;
    let triggered = info(&test, id).await?;
    assert_eq!(triggered.payload.get(), r#"{"word":"42"}"#);
    assert!(matches!(&triggered.trigger, Trigger::Schedule { name, .. } if name == "new year"));
    let story = program.ok(&["show", &id.to_string()]);
    assert!(story.contains(" by schedule new year for 20"), "{story}");
    let told: Value = serde_json::from_str(&program.ok(&["show", &id.to_string(), "--json"]))?;
    assert_eq!(told["trigger"]["name"], "new year");

    let said = program.ok(&["unschedule", names[0], names[1]]);
    assert_eq!(said, "schedule new year of task dynamic removed");
    assert!(test.schedules().await?.is_empty());
    Ok(())
}

#[test]
fn mistakes_in_a_schedule_are_told_without_a_database() {
    let program = Program::at(NOWHERE);
    for (arguments, texts) in [
        (
            vec!["greet", "s", "0 9 * *", "name=A"],
            ["<CRON>", "5 fields"],
        ),
        (
            vec!["greet", "s", "@dayly", "name=A"],
            ["@dayly", "`@daily`"],
        ),
        (
            vec!["greet", "s", "@daily", "nme=A"],
            [
                "unknown field nme; did you mean name?",
                "Usage: 01_basic schedule greet s @daily name=<a string>",
            ],
        ),
        (
            vec!["greet", "s", "0 9 * * *"],
            ["missing field name", "schedule greet s '0 9 * * *' name="],
        ),
        (
            vec!["greet", "s", "@daily", "name=A", "--timezone", "Berlin"],
            ["--timezone", "did you mean `Europe/Berlin`?"],
        ),
        (
            vec!["greet", "s", "@daily", "name=A", "--missed", "never"],
            ["--missed", "skip, once, all"],
        ),
        (
            vec!["greet", "s", "@daily", "name=A", "--json", "{}"],
            ["--json", "cannot be used"],
        ),
    ] {
        let arguments = [vec!["schedule"], arguments].concat();
        refused(&program.run(&arguments), 2, &texts);
    }
}

#[conductor::test]
async fn what_is_not_there_gets_the_nearest_name(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::example("05_dynamic_schedule", &test);
    let unknown = "unknown task \"dynmic\"; did you mean \"dynamic\"?";
    refused(
        &program.run(&["schedule", "dynmic", "s", "@daily", "word=a"]),
        2,
        &[unknown],
    );
    refused(&program.run(&["unschedule", "dynmic", "s"]), 2, &[unknown]);
    refused(
        &program.run(&["schedules", "pause", "dynamic", "dayly"]),
        1,
        &["task \"dynamic\" has no schedule \"dayly\"; it has none"],
    );
    refused(
        &program.run(&["schedule", "dynamic", "", "@daily", "word=a"]),
        2,
        &["it is empty"],
    );
    program.ok(&[
        "schedule",
        "dynamic",
        "daily",
        "@daily",
        "--json",
        r#"{"word":"a"}"#,
    ]);
    for word in ["pause", "resume", "trigger"] {
        refused(
            &program.run(&["schedules", word, "dynamic", "dayly"]),
            1,
            &["has no schedule \"dayly\"; did you mean \"daily\"?"],
        );
    }
    refused(
        &program.run(&["unschedule", "dynamic", "x"]),
        1,
        &["has no schedule \"x\"; it has daily"],
    );
    refused(
        &program.run(&[
            "schedule",
            "dynamic",
            "daily",
            "@daily",
            "--json",
            "{\"word\":1}",
        ]),
        2,
        &["expected a string"],
    );
    Ok(())
}

#[conductor::test]
async fn what_the_code_schedules_is_listed_and_stays(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::example("04_cron", &test);
    let table = program.ok(&["tasks"]);
    assert!(
        table.contains("CRON") && table.contains("*/3 * * * * *"),
        "{table}"
    );
    assert!(!table.contains("WINDOW"), "{table}");
    let tasks: Value = serde_json::from_str(&program.ok(&["tasks", "--json"]))?;
    assert_eq!(tasks[0]["crons"][0]["cron"], "*/3 * * * * *");
    assert_eq!(tasks[0]["window"], Value::Null);

    program.ok(&["drain"]);
    let declared = only(&test).await;
    let table = program.ok(&["schedules"]);
    assert!(table.contains("static"), "{table}");
    assert!(
        table.ends_with("rests: no worker that has it is running"),
        "{table}"
    );
    refused(
        &program.run(&["unschedule", "report", &declared.name]),
        1,
        &["is declared by the code", "schedules pause report"],
    );
    refused(
        &program.run(&["schedules", "--json", "pause", "report", &declared.name]),
        2,
        &["--json"],
    );
    program.ok(&[
        "schedules",
        "--database-url",
        test.url(),
        "pause",
        "report",
        &declared.name,
    ]);
    assert!(only(&test).await.paused);
    // A payload that the code computes.
    let id = program.ok(&["schedules", "trigger", "report", &declared.name]);
    assert_eq!(info(&test, id.parse()?).await?.payload.get(), "null");
    Ok(())
}

#[conductor::test]
async fn a_rule_that_cannot_be_read_says_so(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::example("05_dynamic_schedule", &test);
    program.ok(&["schedule", "dynamic", "odd", "@daily", "word=a"]);
    sqlx::query("select conductor.schedule('dynamic', 'odd', 'at noon', '{\"word\":\"a\"}')")
        .execute(test.pool())
        .await?;
    let table = program.ok(&["schedules"]);
    assert!(table.lines().nth(1).unwrap().contains("fault: "), "{table}");
    let told = lines(&program.ok(&["schedules", "--json"]));
    assert!(told[0]["fault"].is_string() && told[0]["next_at"].is_null());
    Ok(())
}

#[conductor::test]
async fn one_that_waits_for_its_window_says_so_and_when_it_opens(
    test: TestConductor,
) -> anyhow::Result<()> {
    let noon = NaiveTime::from_hms_opt(12, 0, 0).unwrap();
    let now = test.now().await?;
    let at = (now.date_naive() + TimeDelta::days(1))
        .and_time(noon)
        .and_utc();
    test.advance((at - now).to_std()?).await?;
    let parent = test.invoke::<CliSchedulesParent>(()).await?;
    test.drain().await?;
    let child = test
        .list(&conductor::Filter {
            task: Some("cli-schedules.night".to_owned()),
            ..Default::default()
        })
        .await?
        .remove(0);
    assert!(child.postponed);
    let opens = child
        .run_at
        .unwrap()
        .format("%Y-%m-%d 22:00:00 UTC")
        .to_string();

    let program = Program::on(&test);
    let story = program.ok(&["show", &child.id.to_string()]);
    let line = format!("waits    for its window, opens {opens} (in ");
    assert!(story.contains(&line), "{story}");
    let story = program.ok(&["show", &parent.id().to_string()]);
    let told = story.matches("for its window, opens in ").count();
    // Among the children, and among what the parent waits for.
    assert_eq!(told, 2, "{story}");
    let table = program.ok(&["list", "--task", "cli-schedules.night"]);
    assert!(table.contains("for its window, opens in "), "{table}");
    let told = lines(&program.ok(&["list", "--json", "--task", "cli-schedules.night"]));
    assert_eq!(told[0]["postponed"], true);
    let told: Value =
        serde_json::from_str(&program.ok(&["show", &parent.id().to_string(), "--json"]))?;
    assert_eq!(told["postponed"], false);
    assert_eq!(told["trigger"]["kind"], "invoke");
    assert_eq!(told["children"][0]["postponed"], true);

    // A child that ends while the parent's own window is closed.
    test.advance(Duration::from_secs(8 * 3600 + 1800)).await?;
    sqlx::query(
        r#"select conductor.report(array[w.child_id], array[w.execution_id], array[w.key],
                                   array['{"state": "completed", "output": null}'])
             from conductor.waits w"#,
    )
    .execute(test.pool())
    .await?;
    test.drain().await?;
    let waiting = info(&test, parent.id()).await?;
    assert_eq!(
        (waiting.state, waiting.postponed),
        (Status::Suspended, true)
    );
    let story = program.ok(&["show", &parent.id().to_string()]);
    assert!(
        story.contains("waits    for its window, opens 20"),
        "{story}"
    );
    assert!(story.contains(" 21:00:00 UTC (in "), "{story}");
    Ok(())
}
