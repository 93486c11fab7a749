//! Statements are in `conductor-postgres`, and nowhere else.

use super::{root, texts};

/// The other packages that use the database.
const PACKAGES: &[&str] = &[
    "conductor",
    "conductor-cli",
    "conductor-embedded",
    "conductor-runtime",
];

/// What a file that has a statement of its own contains.
const MARKS: &[&str] = &[
    "sqlx::query",
    "query_as(",
    "query_as::<",
    "query_scalar(",
    "query_scalar::<",
    "raw_sql",
    "AssertSqlSafe",
    "execute(\"",
];

/// The lines of code outside of comments and unit tests that have a statement, with their numbers.
fn statements(text: &str) -> Vec<(usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter(|(_, line)| MARKS.iter().any(|mark| line.contains(mark)))
        .map(|(number, line)| (number + 1, line))
        .collect()
}

#[test]
fn statements_are_in_one_package() {
    let mut faults = Vec::new();
    let mut files = 0;
    for package in PACKAGES {
        for (path, text) in texts(&root().join(package).join("src"), "rs") {
            files += 1;
            let path = path.strip_prefix(root()).unwrap().display().to_string();
            let found = statements(&text);
            let found = found.iter();
            faults.extend(found.map(|(number, line)| format!("{path}:{number}: {}", line.trim())));
        }
    }
    assert!(files > 150, "{files}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_statement_is_found() {
    let text = "/// sqlx::query(\nlet a = 1;\nlet b = sqlx::query_scalar(\n#[cfg(test)]\nmod tests {\nraw_sql\n";
    assert_eq!(statements(text), [(3, "let b = sqlx::query_scalar(")]);
}
