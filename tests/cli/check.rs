use conductor::testing::{TestConductor, run};
use serde_json::Value;

use super::lines;
use super::program::Program;
use crate::support::{emptied, run_sql};

/// The findings of `check --json`, without what comes of no worker running.
fn findings(program: &Program) -> Vec<Value> {
    let ended = program.run(&["check", "--json"]);
    let report = &lines(&ended.out)[0];
    let all = report["findings"].as_array().unwrap();
    assert_eq!(
        ended.code,
        Some(if all.is_empty() { 0 } else { 1 }),
        "{}",
        ended.err
    );
    assert_eq!(report["ok"], all.is_empty());
    all.iter()
        .filter(|finding| finding["kind"] != "unserved")
        .cloned()
        .collect()
}

#[test]
fn check_tells_what_does_not_fit_and_ends_with_1() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        program.ok(&["drain"]);
        let text = program.ok(&["check"]);
        assert!(text.ends_with("all is well"), "{text}");

        run_sql(&test, r#"select conductor.invoke('greet', '{"name": 7}')"#)
            .await
            .unwrap();
        let ended = program.run(&["check"]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""));
        let table: Vec<&str> = ended.out.lines().collect();
        assert!(
            table[0].starts_with("WHAT     ABOUT    FINDING"),
            "{table:?}"
        );
        assert!(
            table[1].starts_with("problem  default  1 execution in this queue"),
            "{table:?}"
        );
        assert!(
            table[2].starts_with("problem  greet    1 execution with a payload"),
            "{table:?}"
        );
        assert_eq!(table[3], "1 executions and 0 records looked at");

        let ended = program.run(&["worker", "--strict"]);
        assert_eq!(ended.code, Some(1));
        for text in ["error: cannot start", "greet: 1 execution with a payload"] {
            assert!(ended.err.contains(text), "{}", ended.err);
        }
        let worker = program.worker();
        worker.signal(nix::sys::signal::Signal::SIGTERM);
        let ended = worker.end();
        assert_eq!(ended.code, Some(0));
        assert!(
            ended.err.contains("greet: 1 execution with a payload"),
            "{}",
            ended.err
        );
    });
}

#[test]
fn check_of_an_empty_database_makes_nothing() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        emptied(&test).await;
        let ended = program.run(&["check"]);
        assert_eq!(ended.code, Some(1));
        assert!(
            ended
                .out
                .contains("schema  there is none; a start makes it"),
            "{}",
            ended.out
        );
        assert_eq!(program.run(&["check", "--allow-changes"]).code, Some(0));
        let report = program.run(&["check", "--json"]);
        assert_eq!(
            lines(&report.out)[0]["findings"][0]["kind"],
            "schema_missing"
        );
    });
}

#[test]
fn check_tells_which_schedules_a_start_would_change() {
    run(|test: TestConductor| async move {
        let program = Program::example("04_cron", &test);
        let added = findings(&program);
        assert!(!added.is_empty());
        for finding in &added {
            assert_eq!(
                (&finding["kind"], &finding["change"]),
                (&"schedule".into(), &"added".into())
            );
        }
        assert_eq!(program.run(&["check", "--allow-changes"]).code, Some(0));
        // A worker declares them; what they tick does not matter here.
        let worker = program.worker();
        worker.signal(nix::sys::signal::Signal::SIGTERM);
        worker.end();
        assert_eq!(findings(&program), Vec::<Value>::new());
        run_sql(
            &test,
            "update conductor.schedules set cron = '0 1 2 3 4 *' where id = (select min(id) from conductor.schedules);
             insert into conductor.schedules (task_id, name, dynamic, owner, cron, timezone, missed, overlap, planned_from)
             select task_id, 'was', false, owner, '0 1 2 3 *', 'UTC', 'once', 'allow', now()
               from conductor.schedules order by id limit 1",
        )
        .await
        .unwrap();
        let changed = findings(&program);
        assert_eq!(changed.len(), 2, "{changed:?}");
        let text = changed
            .iter()
            .map(|f| f["text"].as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        assert!(text.contains("changes: 0 1 2 3 4 *, UTC"), "{text}");
        assert!(text.contains("\"was\" is removed"), "{text}");
    });
}

#[test]
fn check_tells_which_subscriptions_a_start_would_change() {
    run(|test: TestConductor| async move {
        let program = Program::example("07_events", &test);
        let added = findings(&program);
        assert!(
            added
                .iter()
                .any(|finding| finding["kind"] == "subscription"),
            "{added:?}"
        );
        program.ok(&["drain"]);
        assert_eq!(findings(&program), Vec::<Value>::new());
        run_sql(
            &test,
            r#"update conductor.subscriptions set event_version = 77
                where (task_id, event, n) = (select task_id, event, n from conductor.subscriptions limit 1);
               insert into conductor.subscriptions (task_id, event, n, event_version, owner)
               select task_id, 'was', 0, 1, owner from conductor.subscriptions limit 1"#,
        )
        .await
        .unwrap();
        let changed = findings(&program);
        let text = changed
            .iter()
            .map(|f| f["text"].as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        assert!(text.contains("another filter or version"), "{text}");
        assert!(text.contains("\"was\" is removed"), "{text}");
    });
}
