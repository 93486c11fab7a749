//! `queues` and `why`, and the example `06_queues`, as its header tells.

use conductor::testing::{TestConductor, run};
use serde_json::{Value, json};
use uuid::Uuid;

use super::program::{Program, until};
use super::{lines, refused};

/// One line of `queues --json`.
fn queue(program: &Program, name: &str) -> Value {
    let queues = lines(&program.ok(&["queues", "--json"]));
    let found = queues.into_iter().find(|queue| queue["name"] == name);
    found.unwrap_or_else(|| panic!("no queue {name}"))
}

#[test]
fn four_lanes_work_side_by_side_and_one_is_paused() {
    run(|test: TestConductor| async move {
        let program = Program::example("06_queues", &test);
        let worker = program.worker();
        program.ok(&["queues", "pause", "slow"]);
        assert_eq!(program.ok(&["invoke", "flood", "n=3", "--wait"]), "12");
        for lane in ["default", "fast", "normal"] {
            for n in 1..=3 {
                worker.says(&format!("{lane}: job {n} done after "));
            }
        }

        let slow = queue(&program, "slow");
        assert_eq!(
            slow,
            json!({"name": "slow", "paused": true, "waiting": 3, "running": 0, "parked": 0, "workers": 1})
        );
        let table = program.ok(&["queues"]);
        let row = table.lines().find(|line| line.starts_with("slow")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words, ["slow", "paused", "3", "0", "0", "1"]);

        let jobs = lines(&program.ok(&["list", "--json", "--queue", "slow", "--state", "pending"]));
        let id = jobs[0]["id"].as_str().unwrap();
        assert_eq!(program.ok(&["why", id]), "the queue \"slow\" is paused");
        let why: Value = serde_json::from_str(&program.ok(&["why", id, "--json"])).unwrap();
        assert_eq!(
            (&why["reason"], &why["queue"]),
            (&json!("paused"), &json!("slow"))
        );
        assert!(
            program
                .ok(&["show", id])
                .contains("why      the queue \"slow\" is paused")
        );
        let shown: Value = serde_json::from_str(&program.ok(&["show", id, "--json"])).unwrap();
        assert_eq!(shown["why"], why);

        assert_eq!(
            program.ok(&["queues", "resume", "slow"]),
            "queue \"slow\" resumed"
        );
        worker.says("slow: job 1 done after 2");
        until(
            || queue(&program, "slow")["running"] == 1,
            || "a running one".to_owned(),
        );
    });
}

#[test]
fn what_is_not_there_is_refused_with_words() {
    run(|test: TestConductor| async move {
        let program = Program::example("06_queues", &test);
        let none = program.run(&["queues"]);
        assert_eq!((none.code, none.out.as_str()), (Some(0), ""));
        assert!(none.err.contains("no queues"), "{none:?}");
        program.ok(&["invoke", "flood", "n=1"]);
        refused(
            &program.run(&["queues", "pause", "defautl"]),
            1,
            &["there is no queue \"defautl\"; did you mean \"default\"?"],
        );
        let id = Uuid::now_v7().to_string();
        refused(&program.run(&["why", &id]), 1, &["no execution has the id"]);
        assert_eq!(
            program.run(&["queues", "--json", "pause", "x"]).code,
            Some(2)
        );
    });
}
