//! Names of tests in the docs.

use super::root;

/// The tests that a text names as `file::test`, with the path of the file below `tests/`.
fn named(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| line.starts_with("| Test |"));
    let quoted = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter_map(|name| name.split_once("::")).collect()
}

#[test]
fn guarantees_name_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 80, "{}", named.len());
    for (file, test) in named {
        let paths = [format!("tests/{file}.rs"), format!("tests/{file}/mod.rs")];
        let found = paths
            .iter()
            .filter_map(|path| std::fs::read_to_string(root().join(path)).ok())
            .any(|text| text.contains(&format!("fn {test}(")));
        assert!(found, "no test {file}::{test}");
    }
}
