//! The command line, as a person or a script uses it.

mod bank;
mod batches;
mod billing;
mod cancellation;
mod check;
mod events;
mod keys;
mod macro_forms;
mod program;
mod queues;
mod schedules;
mod scheduling;
mod secrets;
mod shop;
mod story;
mod triggers;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) use program::{Ended, Program, until};

/// Where nothing is wanted from a database.
const NOWHERE: &str = "nowhere";

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn refused(ended: &Ended, code: i32, texts: &[&str]) {
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(code), ""),
        "{}",
        ended.err
    );
    assert!(ended.err.starts_with("error: "), "{}", ended.err);
    for text in texts {
        assert!(ended.err.contains(text), "{text:?} in {}", ended.err);
    }
}

#[test]
fn an_invoke_prints_its_id_and_a_worker_runs_it() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        // No worker has ever run here.
        let id = program.ok(&["invoke", "greet", "name=Alice"]);
        let info = test.find(id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(info.payload.get(), r#"{"name":"Alice"}"#);

        let worker = program.worker();
        worker.says("Hello, Alice!\n");
        worker.says("invoke greet name=");
        let ended = program.run(&["invoke", "greet", "name=42", "--wait"]);
        assert_eq!(
            (ended.code, ended.out.as_str(), ended.err.as_str()),
            (Some(0), "\"Hello, 42!\"\n", "")
        );
        let receipt = program.ok(&[
            "invoke",
            "order",
            "item=tea",
            "quantity=3",
            "size=large",
            "--wait",
        ]);
        assert_eq!(receipt, r#"{"total_cents":1500,"served_at_attempt":2}"#);

        worker.signal(Signal::SIGTERM);
        let ended = worker.end();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert_eq!(ended.out, "Hello, Alice!\nHello, 42!\n3 tea: 1500 cents\n");
    });
}

#[test]
fn a_failure_ends_the_wait_with_code_1() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let _worker = program.worker();
        let ended = program.run(&["invoke", "order", "item=soup", "quantity=1", "--wait"]);
        refused(&ended, 1, &["failed: there is no soup on the menu"]);
        assert!(!ended.err.contains("backtrace"), "{}", ended.err);
    });
}

#[test]
fn a_cancel_ends_the_wait_with_code_1() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let waiting = program.start(&["invoke", "greet", "name=Alice", "--delay", "1h", "--wait"]);
        until(
            || !program.ok(&["list", "--json"]).is_empty(),
            || "the execution".to_owned(),
        );
        let listed = lines(&program.ok(&["list", "--json", "--state", "pending"]));
        let id = listed[0]["id"].as_str().unwrap();

        let said = program.ok(&["cancel", id, "--reason", "changed my mind"]);
        assert_eq!(said, format!("{id} cancelled"));
        refused(&waiting.end(), 1, &["was cancelled: changed my mind"]);
        refused(
            &program.run(&["cancel", id]),
            1,
            &["has ended already: it is cancelled"],
        );
        let unknown = "01a208b5-930f-76b8-9940-a3a94beb7241";
        refused(
            &program.run(&["cancel", unknown]),
            1,
            &["no execution has the id"],
        );
    });
}

#[test]
fn a_batch_is_that_many_executions() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let ended = program.run(&[
            "invoke",
            "greet",
            "name=A",
            "--batch",
            "3",
            "--priority",
            "-7",
        ]);
        assert_eq!(ended.out.lines().count(), 3, "{ended:?}");
        let (first, last) = (
            ended.out.lines().next().unwrap(),
            ended.out.lines().last().unwrap(),
        );
        assert_eq!(
            ended.err,
            format!("invoked greet 3 times: {first} to {last}\n")
        );
        let listed = lines(&program.ok(&["list", "--json"]));
        assert!(listed.iter().all(|info| info["priority"] == -7));

        let _worker = program.worker();
        let results = program.ok(&["invoke", "greet", "name=B", "--batch", "2", "--wait"]);
        assert_eq!(results, "\"Hello, B!\"\n\"Hello, B!\"");
    });
}

#[test]
fn a_mistyped_task_gets_the_nearest_name() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let ended = program.run(&["invoke", "gret", "name=Alice"]);
        refused(
            &ended,
            2,
            &[
                "unknown task \"gret\"; did you mean \"greet\"?",
                "Known tasks: greet, order",
            ],
        );
        refused(
            &program.run(&["list", "--task", "gret"]),
            2,
            &["did you mean \"greet\"?"],
        );
        let odd = program.run(&["invoke", "it's \"x\"::Y", "--json", "1"]);
        refused(&odd, 2, &["unknown task \"it's \\\"x\\\"::Y\""]);
    });
}

#[test]
fn all_mistakes_in_fields_are_told_at_once_and_without_a_database() {
    let program = Program::at(NOWHERE);
    let ended = program.run(&["invoke", "order", "itm=tea", "quantity=abc", "size=huge"]);
    refused(
        &ended,
        2,
        &[
            "unknown field itm; did you mean item?",
            "field quantity wants an integer of at least 0, got \"abc\"",
            "field size wants one of small, large or null, got \"huge\"",
            "missing field item (a string)",
            "Usage: 01_basic invoke order item=<a string>",
        ],
    );
    let ended = program.run(&["invoke", "greet", "Alice"]);
    refused(&ended, 2, &["did you mean name=Alice?"]);
    let invalid = OsString::from_vec(b"name=\xff".to_vec());
    let ended = program.run(&[OsString::from("invoke"), "greet".into(), invalid.clone()]);
    refused(&ended, 2, &["is not valid UTF-8"]);
    let ended = program.run(&[
        OsString::from("invoke"),
        "greet".into(),
        "--json".into(),
        invalid.clone(),
    ]);
    refused(&ended, 2, &["is not valid UTF-8"]);
    refused(
        &program.run(&[OsString::from("show"), invalid]),
        2,
        &["invalid UTF-8"],
    );
    refused(
        &program.run(&["invoke", "greet", "name=a", "--delay", "soon"]),
        2,
        &["--delay"],
    );
    refused(&program.run(&["lsit"]), 2, &["list"]);
}

#[test]
fn json_payloads_come_from_the_line_or_from_standard_input() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        program.ok(&["invoke", "greet", "--json", "{\"name\":\n \"Alice\"}"]);
        let ended =
            program.run_with_input(&["invoke", "greet", "--json", "-"], b"{\"name\": \"Bob\"}");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let listed = lines(&program.ok(&["list", "--json"]));
        let names: Vec<&Value> = listed.iter().map(|info| &info["payload"]["name"]).collect();
        assert_eq!(names, ["Bob", "Alice"]);

        refused(
            &program.run(&["invoke", "greet", "--json", "{"]),
            2,
            &[
                "payload of task \"greet\" as JSON, and this is none: EOF while parsing an object at line 1 column 1",
                "name=<a string>",
                "--json '{\"name\": \"text\"}'",
            ],
        );
        refused(
            &program.run(&[
                "schedule",
                "greet",
                "morning",
                "0 9 * * *",
                "--json",
                "{\n \"name\" 1}",
            ]),
            2,
            &["at line 2 column 9", "name=<a string>"],
        );
        refused(
            &program.run(&["invoke", "greet", "--json", "{\"name\":1}"]),
            2,
            &["expected a string"],
        );
        refused(
            &program.run(&["invoke", "greet", r#"name:="a\u0000b""#]),
            2,
            &["U+0000"],
        );
        let deep = format!("{{\"name\":{}{}}}", "[".repeat(200), "]".repeat(200));
        refused(
            &program.run(&["invoke", "greet", "--json", &deep]),
            2,
            &["levels deep"],
        );
        let large = format!("{{\"name\":\"{}\"}}", "x".repeat(100_000_000));
        let ended = program.run_with_input(&["invoke", "greet", "--json", "-"], large.as_bytes());
        refused(&ended, 2, &["bytes of JSON and the limit is"]);
        assert_eq!(
            test.list(&conductor::Filter::default())
                .await
                .unwrap()
                .len(),
            2
        );
    });
}

#[test]
fn a_task_of_another_program_is_read_by_its_stored_schema() {
    run(|test: TestConductor| async move {
        let task = json!([{
            "name": "ship", "queue": "far", "package": "p", "place": "p:1", "docs": "",
            "priority": 0, "max_attempts": 3, "backoff_initial_ms": 1, "backoff_max_ms": 1,
            "jitter": 0, "timeout_ms": null, "keep_completed_ms": 1, "keep_failed_ms": 1,
            "payload_schema": {
                "type": "object", "required": ["parcels"],
                "properties": { "parcels": { "type": "integer" } },
            },
            "output_schema": true,
        }]);
        test.migrate().await.unwrap();
        sqlx::query("select conductor.declare_tasks($1, true)")
            .bind(task)
            .execute(test.pool())
            .await
            .unwrap();
        let program = Program::on(&test);
        program.ok(&["invoke", "ship", "parcels=3"]);
        refused(
            &program.run(&["invoke", "ship", "parcels=x"]),
            2,
            &["parcels wants an integer"],
        );
        refused(
            &program.run(&["invoke", "shp"]),
            2,
            &["did you mean \"ship\"?"],
        );
        // This program's workers leave it alone.
        program.ok(&["drain"]);
        assert_eq!(
            lines(&program.ok(&["list", "--json"]))[0]["state"],
            "pending"
        );
    });
}

#[test]
fn executions_are_listed_and_shown() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let greeted = program.ok(&["invoke", "greet", "name=Alice"]);
        let failed = program.ok(&["invoke", "order", "item=soup", "quantity=1"]);
        program.ok(&["drain"]);
        let later = program.ok(&[
            "invoke",
            "greet",
            "name=Zoe",
            "--run-at",
            "2099-01-01T00:00:00Z",
        ]);

        let listed = lines(&program.ok(&["list", "--json"]));
        let ids: Vec<&Value> = listed.iter().map(|info| &info["id"]).collect();
        assert_eq!(ids, [&later, &failed, &greeted]);
        let table = program.ok(&["list", "--state", "failed", "--newer-than", "1h"]);
        assert!(
            table.starts_with("ID ") && table.lines().count() == 2,
            "{table}"
        );
        assert!(table.contains("there is no soup on the menu"), "{table}");
        assert_eq!(
            program.run(&["list", "--queue", "other"]).err,
            "no executions\n"
        );
        assert_eq!(
            lines(&program.ok(&["list", "--limit", "1", "--json"])).len(),
            1
        );

        let story = program.ok(&["show", &greeted]);
        assert!(
            story.contains("completed") && story.contains("\"Hello, Alice!\""),
            "{story}"
        );
        let story = program.ok(&["show", &failed]);
        assert!(
            story.contains("1 of 5 failed") && story.contains("no soup"),
            "{story}"
        );
        let story = program.ok(&["show", &later]);
        assert!(
            story.contains("for its time, 2099-01-01 00:00:00 UTC"),
            "{story}"
        );
        let shown: Value = serde_json::from_str(&program.ok(&["show", &failed, "--json"])).unwrap();
        assert_eq!(
            shown["attempts_failed"][0]["error"],
            "there is no soup on the menu"
        );
        refused(&program.run(&["show", "abc"]), 2, &["<ID>"]);
        let unknown = "01a208b5-930f-76b8-9940-a3a94beb7241";
        refused(
            &program.run(&["show", unknown]),
            1,
            &["no execution has the id"],
        );
    });
}

#[test]
fn a_failed_execution_is_repeated_under_a_new_id() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let failed = program.ok(&["invoke", "order", "item=soup", "quantity=1"]);
        let greeted = program.ok(&["invoke", "greet", "name=Alice"]);
        program.ok(&["drain"]);
        let again = program.ok(&["retry", &failed]);
        let shown: Value = serde_json::from_str(&program.ok(&["show", &again, "--json"])).unwrap();
        assert_eq!(
            (&shown["state"], &shown["retry_of"]),
            (&json!("pending"), &json!(failed))
        );
        refused(&program.run(&["retry", &greeted]), 1, &["is completed"]);
        let unknown = "01a208b5-930f-76b8-9940-a3a94beb7241";
        refused(
            &program.run(&["retry", unknown]),
            1,
            &["no execution has the id"],
        );
    });
}

#[test]
fn tasks_are_listed_without_a_database() {
    let program = Program::at(NOWHERE);
    let table = program.ok(&["tasks"]);
    assert!(table.contains("Greets somebody."), "{table}");
    let tasks: Value = serde_json::from_str(&program.ok(&["tasks", "--json"])).unwrap();
    assert_eq!(tasks[0]["name"], "greet");
    assert_eq!(tasks[1]["retry"]["max_attempts"], 5);
    assert_eq!(
        tasks[0]["payload_schema"]["properties"]["name"]["type"],
        "string"
    );
    assert_eq!(tasks[0]["output_schema"]["type"], "string");
}

#[test]
fn a_database_that_does_not_do_ends_with_code_3() {
    refused(
        &Program::at(NOWHERE).run(&["list"]),
        3,
        &["cannot connect", "must look like postgres://"],
    );
    run(|test: TestConductor| async move {
        let missing = test
            .url()
            .replacen("conductor_test_", "conductor_test_no_", 1);
        refused(
            &Program::at(&missing).run(&["list"]),
            3,
            &["does not exist"],
        );
        let program = Program::at(NOWHERE);
        let said = program.ok(&["--database-url", test.url(), "migrate"]);
        assert!(said.contains("nothing to do"), "{said}");

        sqlx::query(
            "insert into conductor.migrations (id, name, checksum) values (9999, 'x', 'x')",
        )
        .execute(test.pool())
        .await
        .unwrap();
        let newer = Program::on(&test).run(&["invoke", "greet", "name=Alice"]);
        refused(&newer, 3, &["the database has version 9999"]);
    });
}

#[test]
fn what_is_piped_has_no_colours() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let id = program.ok(&["invoke", "order", "item=soup", "quantity=1"]);
        for arguments in [
            vec!["drain"],
            vec!["list"],
            vec!["show", &id],
            vec!["tasks"],
            vec!["--help"],
            vec!["invoke", "gret"],
            vec!["nonsense"],
        ] {
            let ended = program.run(&arguments);
            assert!(
                !ended.out.contains('\u{1b}'),
                "{arguments:?}: {:?}",
                ended.out
            );
            assert!(
                !ended.err.contains('\u{1b}'),
                "{arguments:?}: {:?}",
                ended.err
            );
        }
    });
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Program::at(NOWHERE)
        .command(&["tasks", "--json"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[test]
fn help_tells_what_to_type_and_what_comes_back() {
    let program = Program::at(NOWHERE);
    let help = program.ok(&["--help"]);
    for text in ["01_basic invoke TASK", "Exit codes:", "DATABASE_URL"] {
        assert!(help.contains(text), "{help}");
    }
    assert!(
        program
            .ok(&["invoke", "--help"])
            .contains("01_basic invoke greet name=Alice")
    );
    assert_eq!(program.ok(&["db", "--url"]), NOWHERE);
}

#[test]
fn a_worker_serves_the_queues_it_is_told_to() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let worker = program.start(&["worker", "--queue", "default:3"]);
        worker.says("default (3 at once)");
        worker.says("worker started");
        worker.signal(Signal::SIGINT);
        assert_eq!(worker.end().code, Some(0));
        let ended = program.run(&["worker", "--queue", "defualt"]);
        refused(&ended, 2, &["did you mean \"default\"?"]);
        refused(
            &program.run(&["worker", "--queue", "default:0"]),
            2,
            &["at least 1"],
        );
    });
}

#[test]
fn a_value_that_does_not_fit_is_told_with_its_field() {
    run(|test: TestConductor| async move {
        let rows = Program::example("11_row_changes", &test);
        let wrong = "new.id: invalid type: string \"x\", expected i64";
        let user = r#"{"id":"x","name":"Alice","email":"","plan":""}"#;
        let field = format!("new:={user}");
        let fields = ["op=insert", field.as_str()];
        let json = format!(r#"{{"op":"insert","new":{user}}}"#);
        let json = ["--json", json.as_str()];
        for given in [fields, json] {
            for (first, more) in [
                (vec!["invoke", "audit"], None),
                (vec!["invoke", "audit"], Some(["--batch", "3"])),
                (vec!["schedule", "audit", "daily", "@daily"], None),
            ] {
                let mut line = first;
                line.extend(given);
                line.extend(more.into_iter().flatten());
                refused(&rows.run(&line), 2, &["payload of task \"audit\"", wrong]);
            }
        }

        let readings = Program::example("10_batches", &test);
        let help = readings.run(&["invoke", "record", "celsius=warm"]);
        refused(&help, 2, &["field celsius wants a number"]);

        let events = Program::example("07_events", &test);
        events.ok(&["drain"]);
        for given in [["--json", r#"{"message":5}"#], ["message:=5", "--wait"]] {
            let mut line = vec!["emit", "announcement"];
            line.extend(given);
            let words = "message: invalid type: integer `5`, expected a string";
            refused(&events.run(&line), 2, &["event \"announcement\"", words]);
        }

        // What came by SQL is found by `check`, and `list` tells why it waits.
        let sql = format!(r#"select conductor.invoke('audit', '{{"op":"insert","new":{user}}}')"#);
        crate::support::run_sql(
            &test,
            "create table users (id bigint, name text, email text, plan text)",
        )
        .await
        .unwrap();
        rows.ok(&["drain"]);
        crate::support::run_sql(&test, &sql).await.unwrap();
        let checked = rows.run(&["check"]);
        assert!(checked.out.contains(wrong), "{checked:?}");
        rows.ok(&["drain"]);
        let listed = lines(&rows.ok(&["list", "--json"]));
        let reason = listed[0]["unreadable"].as_str().unwrap();
        assert!(reason.contains(wrong), "{reason}");
    });
}

#[test]
fn many_lines_of_json_are_whole_and_end_with_their_reader() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        // More than is written at once, with what a terminal would obey.
        let name = "\u{9b}31m größe \u{202e}".repeat(100);
        let name = format!("name={name}");
        program.ok(&["invoke", "greet", &name, "--batch", "500"]);
        let out = program.ok(&["list", "--json", "--limit", "500"]);
        assert!(out.len() > 1 << 20, "{}", out.len());
        assert!(out.contains(r"\u009b31m größe \u202e"));
        assert!(!out.contains(['\u{9b}', '\u{202e}']));
        let ids: std::collections::HashSet<String> = lines(&out)
            .iter()
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), 500);

        // `list --json | head -1`
        let mut command = program.command(&["list", "--json", "--limit", "500"]);
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
    });
}
