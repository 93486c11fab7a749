//! The commands `emit` and `events`, and what `show` tells of who waits.

use std::time::Duration;

use conductor::testing::{TestConductor, run};
use serde_json::Value;
use uuid::Uuid;

use super::program::Program;
use crate::support::{eventually, number, run_sql};

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
fn three_terminals_hear_what_a_fourth_says() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        let _worker = program.worker();
        let listening = [(); 3].map(|()| program.start(&["invoke", "listen", "--wait"]));
        eventually("three waits", || async {
            number(&test, "select count(*) from conductor.waits").await == 3
        })
        .await;
        program.ok(&["emit", "announcement", "message=Hello World"]);
        for terminal in listening {
            let ended = terminal.end();
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert_eq!(ended.out, "\"Hello World\"\n");
        }
    });
}

#[test]
fn an_emit_tells_whom_it_has_started_and_woken() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        let said = program.run(&["emit", "announcement", "message=x", "--wait"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains("nobody was started or woken"), "{said:?}");
        assert_eq!(said.out.lines().count(), 1);

        let mut ids = [(); 2].map(|()| program.ok(&["invoke", "listen"]));
        ids.sort();
        program.ok(&["drain"]);
        let said = program.ok(&["emit", "announcement", "message=Hello", "--wait"]);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        let started: Uuid = lines[1]
            .strip_prefix("started note ")
            .unwrap()
            .parse()
            .unwrap();
        assert!(test.find(started).await.unwrap().is_some());
        assert_eq!(lines[2..], ids.map(|id| format!("woke listen {id}")));
        let watched = "select count(*) from conductor.event_watches where started <> '{}'";
        assert_eq!(number(&test, watched).await, 1);

        // Of an empty message nobody is told, but that nobody wants it.
        let said = program.run(&["emit", "announcement", "message=", "--wait"]);
        assert!(said.err.contains("nobody was started or woken"), "{said:?}");
    });
}

#[test]
fn an_emit_does_not_wait_for_ever_to_tell() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        program.ok(&["drain"]);
        // So many that an emit leaves them to an orchestrator, and none is there.
        run_sql(
            &test,
            r#"select conductor.emit('announcement', '{"message": "x"}') from generate_series(1, 501)"#,
        )
        .await
        .unwrap();
        let said = program.run(&[
            "emit",
            "announcement",
            "message=y",
            "--wait",
            "--timeout",
            "200ms",
        ]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("within 200ms not all"), "{said:?}");
        let refused = program.run(&["emit", "announcement", "message=y", "--timeout", "1s"]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
    });
}

#[test]
fn it_is_told_which_event_one_waits_for() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        let id = program.ok(&["invoke", "listen"]);
        program.ok(&["drain"]);
        let why = program.ok(&["why", &id]);
        assert!(
            why.starts_with("waits for an event \"announcement\", at most until "),
            "{why}"
        );
        let why: Value = serde_json::from_str(&program.ok(&["why", &id, "--json"])).unwrap();
        assert_eq!(why["waits"][0]["event"], "announcement", "{why}");
        let listed = program.ok(&["list"]);
        assert!(listed.contains("announcement"), "{listed}");
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
            (
                vec!["emit", "announcement", "--json", "{"],
                "payload of event \"announcement\" as JSON, and this is none: EOF while parsing an object at line 1 column 1",
            ),
            (
                vec!["emit", "announcement", "--json", "{"],
                "message=<a string>",
            ),
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

#[test]
fn a_program_leaves_the_subscriptions_of_another_and_removes_its_own() {
    run(|test: TestConductor| async move {
        let events = Program::example("07_events", &test);
        events.ok(&["drain"]);
        // As if earlier builds had had them: another task, and another event of the one that is left.
        run_sql(
            &test,
            "insert into conductor.tasks (name, queue_id, declared_at)
             select 'gone', q.id, now() from conductor.queues q where q.name = 'default';
             insert into conductor.subscriptions (task_id, event, n, event_version, owner)
             select t.id, 'former', 0, 1, s.owner from conductor.tasks t, conductor.subscriptions s
              where t.name in ('gone', 'note')",
        )
        .await
        .unwrap();
        let subscriptions = "select string_agg(t.name || ' ' || s.event, ', ' order by t.name, s.event)
                               from conductor.subscriptions s join conductor.tasks t on t.id = s.task_id";
        let found = || async {
            let found: Option<String> = sqlx::query_scalar(subscriptions)
                .fetch_one(test.pool())
                .await
                .unwrap();
            found.unwrap_or_default()
        };
        Program::example("01_basic", &test).ok(&["drain"]);
        assert_eq!(found().await, "gone former, note announcement, note former");
        events.ok(&["drain"]);
        assert_eq!(found().await, "note announcement");
    });
}
