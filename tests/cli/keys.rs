//! `invoke` with `--dedupe-key`, `--throttle` and `--debounce`.

use conductor::testing::{TestConductor, run};
use serde_json::Value;

use super::program::Program;
use super::{NOWHERE, refused};

#[test]
fn what_came_of_an_invoke_is_said_beside_its_id() {
    run(|test: TestConductor| async move {
        let program = Program::on(&test);
        let keyed = ["invoke", "greet", "name=A", "--dedupe-key", "k"];
        let first = program.run(&keyed);
        assert_eq!(first.err, "created: a new execution\n");
        let id = first.out.trim().to_owned();
        let again = program.run(&["invoke", "greet", "name=B", "--dedupe-key", "k"]);
        assert_eq!(again.out, first.out);
        assert!(again.err.starts_with("replaced: "), "{}", again.err);
        let info = test.find(id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(info.payload.get(), r#"{"name":"B"}"#);

        let shown: Value = serde_json::from_str(&program.ok(&["show", &id, "--json"])).unwrap();
        assert_eq!(shown["dedupe_key"], "k");
        let tree = program.ok(&["show", &id]);
        assert!(tree.contains("key      k"), "{tree}");

        for (option, answer) in [("--throttle", "throttled: "), ("--debounce", "replaced: ")] {
            let call = ["invoke", "greet", "name=C", option, "1h"];
            let first = program.run(&call);
            assert!(first.err.starts_with("created: "), "{}", first.err);
            let again = program.run(&call);
            assert_eq!(again.out, first.out);
            assert!(again.err.starts_with(answer), "{}", again.err);
        }
        let call = ["invoke", "greet", "name=D", "--debounce", "1h"];
        let again = program.run(&[&call[..], &["--max-wait", "2h"]].concat());
        assert!(again.err.starts_with("replaced: "), "{}", again.err);
    });
}

#[test]
fn options_that_contradict_one_another_are_refused() {
    let program = Program::at(NOWHERE);
    for (other, value) in [("--throttle", "1s"), ("--delay", "1s")] {
        let call = [
            "invoke",
            "greet",
            "name=A",
            "--debounce",
            "1s",
            other,
            value,
        ];
        refused(&program.run(&call), 2, &["--debounce", other]);
    }
    let call = ["invoke", "greet", "name=A", "--max-wait", "1h"];
    refused(&program.run(&call), 2, &["--debounce"]);
}
