//! Rules of the house that a reader should not have to check: the length of functions, and calls by name.

mod circles;
mod docs;
mod statements;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The most lines of a function, in Rust and in SQL.
const MOST_LINES: usize = 70;

/// SQL functions that are longer, with the lines that they have at most. None may grow.
///
/// These run for each claim, each wait or each statement of a user. What they do only sometimes is in functions of its
/// own. A call of a function takes several microseconds, so to split the rest would cost more than 3 % of the statement.
const LONG_SQL: &[(&str, usize)] = &[
    // Split into four, it made a claim that reads lanes 6 to 9 % slower.
    ("admit", 168),
    // Its two loops end at the same conditions, but read different indexes; they run once for each wait.
    ("catch_up", 144),
    // Split into five, with its state in records, it made a claim 6 to 20 % slower.
    ("claim_gated", 252),
    // Only the trigger function itself can read the transition tables of a statement.
    ("rows_changed", 140),
];

/// The same for Rust.
const LONG_RUST: &[(&str, usize)] = &[];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files of a kind below a folder, with their texts.
fn texts(folder: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(texts(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// Functions by name, with their lines from the head to the end, comments and blank lines included.
fn sql_functions() -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for (_, text) in texts(&root().join("migrations/functions"), "sql") {
        let mut current: Option<(String, usize)> = None;
        let mut returns = false;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("create or replace function conductor.") {
                let name = rest.split('(').next().unwrap().to_owned();
                current = Some((name, 0));
            }
            if let Some((name, count)) = &mut current {
                *count += 1;
                returns |= line.starts_with("return ");
                if line == "$$;" || returns && line.ends_with(';') {
                    lines.insert(name.clone(), *count);
                    current = None;
                    returns = false;
                }
            }
        }
    }
    lines
}

/// The same for Rust, as rustfmt writes it: a function ends with a brace at the indent of its head.
fn rust_functions() -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for folder in [
        "conductor",
        "conductor-cli",
        "conductor-core",
        "conductor-embedded",
        "conductor-macros",
        "conductor-postgres",
        "conductor-runtime",
        "conductor-schedule",
        "migrations",
        "bench",
    ] {
        for (path, text) in texts(&root().join(folder).join("src"), "rs") {
            let file = path.file_stem().unwrap().to_string_lossy().into_owned();
            let all: Vec<&str> = text.lines().collect();
            for (start, line) in all.iter().enumerate() {
                let head = line.trim_start();
                let Some(name) = function_name(head) else {
                    continue;
                };
                let end = format!("{}}}", " ".repeat(line.len() - head.len()));
                let body = all[start..].iter().position(|line| **line == end);
                let count = body.unwrap_or(0) + 1;
                let longest = lines.entry(format!("{file}::{name}")).or_insert(0);
                *longest = count.max(*longest);
            }
        }
    }
    lines
}

/// The name, if this line is the head of a function.
fn function_name(head: &str) -> Option<&str> {
    let words = [
        "pub ",
        "pub(crate) ",
        "pub(super) ",
        "const ",
        "async ",
        "unsafe ",
    ];
    let mut rest = head;
    while let Some(shorter) = words.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = shorter;
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// What is wrong: functions that are too long and not listed, or listed and have become shorter or longer.
fn faults(found: &BTreeMap<String, usize>, listed: &[(&str, usize)]) -> Vec<String> {
    let listed: BTreeMap<&str, usize> = listed.iter().copied().collect();
    let long = found.iter().filter(|(_, lines)| **lines > MOST_LINES);
    let mut faults: Vec<String> = long
        .filter(|(name, lines)| listed.get(name.as_str()) != Some(lines))
        .map(|(name, lines)| format!("(\"{name}\", {lines}),"))
        .collect();
    let short = |name: &str| found.get(name).is_none_or(|lines| *lines <= MOST_LINES);
    faults.extend(
        listed
            .keys()
            .filter(|name| short(name))
            .map(|name| format!("{name} is no longer long: remove it from the list")),
    );
    faults
}

#[test]
fn no_sql_function_grows_beyond_a_screen() {
    let found = sql_functions();
    assert!(found.len() > 190, "{}", found.len());
    let faults = faults(&found, LONG_SQL);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_rust_function_grows_beyond_a_screen() {
    let found = rust_functions();
    assert!(found.len() > 1000, "{}", found.len());
    let faults = faults(&found, LONG_RUST);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// With more than six arguments, two of one type can change places and nothing notices.
#[test]
fn calls_with_many_arguments_name_them() {
    let mut faults = Vec::new();
    let mut calls = 0;
    let sql = texts(&root().join("migrations/functions"), "sql");
    let rust = ["conductor-runtime", "conductor-postgres"]
        .into_iter()
        .flat_map(|package| texts(&root().join(package).join("src"), "rs"));
    for (path, text) in sql.into_iter().chain(rust) {
        for (at, _) in text.match_indices("conductor.") {
            let Some(arguments) = call(&text, at) else {
                continue;
            };
            calls += 1;
            if arguments.len() > 6 && arguments.iter().any(|argument| !argument.contains("=>")) {
                let line = text[..at].lines().count();
                faults.push(format!("{}:{line}", path.display()));
            }
        }
    }
    assert!(calls > 300, "{calls}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The arguments of the call of a function of the schema that begins here; none if this is something else.
fn call(text: &str, at: usize) -> Option<Vec<&str>> {
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
    let is_definition = line.ends_with("function ");
    let is_comment = ["--", "//"].iter().any(|mark| line.contains(mark));
    let open = at + text[at..].find('(')?;
    let name = &text[at + "conductor.".len()..open];
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
    if is_definition || is_comment || !is_name {
        return None;
    }
    let mut arguments = Vec::new();
    let (mut depth, mut start, mut quoted) = (0, open + 1, false);
    for (offset, c) in text[open..].char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 1 => {
                arguments.push(&text[start..open + offset]);
                start = open + offset + 1;
            }
            _ => {}
        }
        if depth == 0 {
            arguments.push(&text[start..open + offset]);
            return Some(arguments);
        }
    }
    None
}
