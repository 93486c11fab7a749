//! The commands `emit` and `events`, and what `show` tells of who waits.

use std::time::Duration;

use conductor::testing::{TestConductor, run};
use serde_json::Value;

use super::program::Program;
use crate::support::{eventually, number};

#[test]
fn an_emit_ends_a_wait_and_is_listed() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        assert_eq!(program.run(&["events"]).err, "no events\n");
        let id = program.ok(&["invoke", "listen"]);
        program.ok(&["drain"]);
        let shown = program.ok(&["show", &id]);
        assert!(
            shown.contains("for an event announcement; at most until"),
            "{shown}"
        );
        let shown: Value = serde_json::from_str(&program.ok(&["show", &id, "--json"])).unwrap();
        assert_eq!(shown["waits"][0]["event"], "announcement");

        let event = program.ok(&["emit", "announcement", "message=Hello World"]);
        program.ok(&["drain"]);
        let shown: Value = serde_json::from_str(&program.ok(&["show", &id, "--json"])).unwrap();
        assert_eq!(shown["output"], "Hello World");

        let listed: Value = serde_json::from_str(&program.ok(&["events", "--json"])).unwrap();
        assert_eq!(listed["id"], event.as_str());
        assert_eq!(listed["payload"]["message"], "Hello World");
        let table = program.ok(&["events", "announcement", "--limit", "1"]);
        assert!(
            table.contains(&event) && table.contains("Hello World"),
            "{table}"
        );
        assert_eq!(program.run(&["events", "other"]).err, "no events\n");
    });
}

#[test]
fn a_wait_without_an_event_times_out() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        let id = program.ok(&["invoke", "listen"]);
        program.ok(&["drain"]);
        eventually("the wait", || async {
            number(&test, "select count(*) from conductor.waits").await == 1
        })
        .await;
        test.advance(Duration::from_secs(60)).await.unwrap();
        program.ok(&["drain"]);
        let steps = program.ok(&["show", &id]);
        assert!(
            steps.contains("no event \"announcement\" came in time"),
            "{steps}"
        );
    });
}

#[test]
fn what_is_no_event_is_refused() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        for (call, said) in [
            (
                vec!["emit", "anouncement", "message=x"],
                "did you mean \"announcement\"?",
            ),
            (vec!["emit", "announcement"], "message"),
            (vec!["emit", "announcement", "mesage=x"], "mesage"),
            (vec!["emit", "announcement", "--json", "{}"], "message"),
            (vec!["emit", "announcement", "--json", "{"], "EOF"),
        ] {
            let ran = program.run(&call);
            assert!(ran.err.contains(said), "{call:?}: {}", ran.err);
            assert_eq!(ran.out, "");
        }
        assert_eq!(
            number(&test, "select count(*) from conductor.events").await,
            0
        );
    });
}
