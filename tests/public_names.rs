//! The names at the root of the crate `conductor`: few enough to be read at once.

use std::path::Path;

/// The most documented names at the root, modules not counted.
const MOST: usize = 25;

/// The names that a `pub use …;` or a `pub …` item brings to the root; empty for modules.
fn names(item: &str) -> Vec<String> {
    let Some(path) = item.strip_prefix("pub use ") else {
        return Vec::new();
    };
    let (before, listed) = path.split_once('{').unwrap_or(("", path));
    let listed = listed.trim_end_matches([';', '}']);
    let last = |name: &str| {
        let name = name.rsplit(" as ").next().unwrap();
        name.rsplit("::").next().unwrap().trim().to_owned()
    };
    let names = listed.split(',').filter(|name| !name.trim().is_empty());
    let names: Vec<String> = names.map(last).collect();
    assert!(
        !before.contains(',') && !names.contains(&"*".to_owned()),
        "{item}"
    );
    names
}

/// The documented names in the text of a crate's root.
fn documented(root: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut item = String::new();
    let mut hidden = false;
    for line in root.lines() {
        let line = line.trim();
        match line {
            "#[doc(hidden)]" => hidden = true,
            _ if line.is_empty() || line.starts_with("//") || line.starts_with("#[") => {}
            _ => {
                item.push_str(line);
                item.push(' ');
                // The braces of `__private` open after a hidden `pub mod`, which ends the part that counts.
                if line.starts_with("pub mod __private") {
                    assert!(hidden, "{line}");
                    break;
                }
                if line.ends_with(';') {
                    if !hidden {
                        all.extend(names(item.trim()));
                    }
                    item.clear();
                    hidden = false;
                }
            }
        }
    }
    all
}

#[test]
fn the_root_of_the_crate_has_few_names() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: &str| std::fs::read_to_string(source.join(file)).unwrap();
    let modules = ["check", "embedded", "testing"];
    let mut all = documented(&read("lib.rs"));
    all.retain(|name| !modules.contains(&name.as_str()));
    for file in std::fs::read_dir(&source).unwrap() {
        let file = file.unwrap().path();
        let text = file
            .is_file()
            .then(|| std::fs::read_to_string(&file).unwrap());
        let text = text.unwrap_or_default();
        let macros = text.split("#[macro_export]\nmacro_rules! ").skip(1);
        all.extend(macros.map(|rest| rest.split(' ').next().unwrap().to_owned()));
    }
    all.sort();
    for expected in ["Conductor", "TaskContext", "task", "main"] {
        assert!(
            all.iter().any(|name| name == expected),
            "{expected} in {all:?}"
        );
    }
    assert!(all.len() <= MOST, "{} names: {all:?}", all.len());
}

/// Names that moved into modules can still be used at the root.
#[test]
fn old_paths_lead_to_the_same_types() {
    use std::any::TypeId;
    assert_eq!(
        TypeId::of::<conductor::Filter>(),
        TypeId::of::<conductor::inspect::Filter>()
    );
    assert_eq!(
        TypeId::of::<conductor::Missed>(),
        TypeId::of::<conductor::schedule::Missed>()
    );
    assert_eq!(
        TypeId::of::<conductor::Handle>(),
        TypeId::of::<conductor::orchestrator::Handle>()
    );
    assert_eq!(
        TypeId::of::<conductor::RowOp>(),
        TypeId::of::<conductor::rows::RowOp>()
    );
}
