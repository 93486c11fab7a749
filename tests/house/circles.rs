//! Imports of files, and the circles that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::texts;

/// The packages whose files have no circles.
const WITHOUT: &[&str] = &[
    "conductor",
    "conductor-cli",
    "conductor-core",
    "conductor-embedded",
    "conductor-macros",
    "conductor-postgres",
    "conductor-schedule",
    "migrations",
];

/// The circles of `conductor-runtime` that are left: how many files each has at most.
const LEFT: &[usize] = &[10, 2, 2];

/// The modules of a package, and for each the modules that it names.
struct Package {
    texts: BTreeMap<String, String>,
    /// What a module passes on with `pub use`: its name there, and where it comes from.
    passed_on: BTreeMap<(String, String), Vec<String>>,
}

impl Package {
    fn read(src: &Path) -> Self {
        let mut package = Package {
            texts: BTreeMap::new(),
            passed_on: BTreeMap::new(),
        };
        for (path, text) in texts(src, "rs") {
            let path = path.strip_prefix(src).unwrap().with_extension("");
            let mut names: Vec<_> = path.iter().map(|name| name.to_str().unwrap()).collect();
            if matches!(names.last(), Some(&"mod" | &"lib")) {
                names.pop();
            }
            // Tests may name what they like.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.collect::<Vec<_>>().join("\n");
            package.texts.insert(names.join("::"), code);
        }
        package.find_passed_on();
        package
    }

    fn find_passed_on(&mut self) {
        for (module, text) in &self.texts {
            for (_, path) in imports(text).into_iter().filter(|(public, _)| *public) {
                let first = path[0].clone();
                let child = join(module, &first);
                let from = if matches!(first.as_str(), "crate" | "super" | "self") {
                    absolute(module, &path)
                } else if self.texts.contains_key(&child) {
                    absolute(module, &[vec!["self".to_owned()], path].concat())
                } else {
                    continue;
                };
                let name = from.last().unwrap().clone();
                self.passed_on.insert((module.clone(), name), from);
            }
        }
    }

    /// Returns the module in which the item of a path is, by way of what others pass on.
    fn home(&self, path: &[String], depth: usize) -> Option<String> {
        for end in (0..=path.len()).rev() {
            let module = path[..end].join("::");
            if !self.texts.contains_key(&module) {
                continue;
            }
            let from = path
                .get(end)
                .and_then(|item| self.passed_on.get(&(module.clone(), item.clone())));
            return match from {
                Some(from) if depth < 6 => {
                    self.home(&[from.as_slice(), &path[end + 1..]].concat(), depth + 1)
                }
                _ => Some(module),
            };
        }
        None
    }

    fn edges(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let mut edges = BTreeMap::new();
        for (module, text) in &self.texts {
            let mut named = BTreeSet::new();
            for (public, path) in imports(text) {
                let is_inside = matches!(path[0].as_str(), "crate" | "super" | "self");
                let home = is_inside
                    .then(|| self.home(&absolute(module, &path), 0))
                    .flatten();
                named.extend(home.filter(|home| {
                    // A module that passes on what its parts have does not need them.
                    home != module && !(public && home.starts_with(&join(module, "")))
                }));
            }
            edges.insert(module.as_str(), named);
        }
        edges
    }

    /// Returns the circles, the largest first.
    fn circles(&self) -> Vec<Vec<String>> {
        let edges = &self.edges();
        let reached: BTreeMap<&str, BTreeSet<&str>> = edges
            .keys()
            .map(|from| {
                let mut found = BTreeSet::new();
                let mut open = vec![*from];
                while let Some(module) = open.pop() {
                    let next = edges[module].iter().map(String::as_str);
                    open.extend(next.filter(|next| found.insert(*next)));
                }
                (*from, found)
            })
            .collect();
        let mut circles = BTreeSet::new();
        for (module, found) in &reached {
            let circle: Vec<String> = found
                .iter()
                .filter(|other| reached[*other].contains(module))
                .map(|other| (*other).to_owned())
                .collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        let mut circles: Vec<_> = circles.into_iter().collect();
        circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
        circles
    }
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() {
        name.to_owned()
    } else {
        format!("{module}::{name}")
    }
}

/// Returns the path from the root of the package.
fn absolute(module: &str, path: &[String]) -> Vec<String> {
    let mut at: Vec<String> = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => module
            .split("::")
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    for name in path {
        match name.as_str() {
            "super" => drop(at.pop()),
            "crate" | "self" => {}
            name => at.push(name.to_owned()),
        }
    }
    at
}

/// Returns the paths of all `use` items, and whether they are passed on; and the paths in code that begin at
/// the root.
fn imports(text: &str) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    for item in text.split(';') {
        let Some((before, tree)) = item.rsplit_once("use ") else {
            continue;
        };
        let head = before.lines().last().unwrap_or_default().trim();
        if head.is_empty() || head.starts_with("pub") {
            let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            let public = head.starts_with("pub");
            found.extend(leaves(&tree).into_iter().map(|path| (public, path)));
        }
    }
    // A visibility, such as `pub(in crate::context)`, needs nothing of the module.
    let starts = text.match_indices("crate::").map(|(at, _)| at);
    for at in starts.filter(|at| !text[..*at].ends_with("(in ")) {
        let path = text[at..]
            .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
            .next();
        let names = path.unwrap_or_default().split("::");
        let names = names.filter(|name| !name.is_empty()).map(str::to_owned);
        found.push((false, names.collect()));
    }
    found
}

/// Returns the paths of a `use` tree, such as `a::{b, c::d}`.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let Some((head, body)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let names = path.split("::").map(|name| name.trim().to_owned());
        return vec![names.filter(|name| !name.is_empty()).collect()];
    };
    let body = body.trim_end().strip_suffix('}').unwrap_or(body);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&body[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&body[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(|part| leaves(&format!("{head}{}", part.trim())))
        .collect()
}

/// A file that needs another one which needs it can only be read together with it.
#[test]
fn no_new_circles_of_files() {
    for name in WITHOUT {
        let package = Package::read(&super::root().join(name).join("src"));
        assert!(!package.texts.is_empty(), "{name}");
        let circles = package.circles();
        assert!(circles.is_empty(), "{name}: {circles:?}");
    }
    let runtime = Package::read(&super::root().join("conductor-runtime/src"));
    assert!(runtime.texts.len() > 100);
    let circles = runtime.circles();
    let sizes: Vec<usize> = circles.iter().map(Vec::len).collect();
    assert_eq!(
        sizes, LEFT,
        "if they are fewer or smaller, say so in LEFT: {circles:#?}"
    );
}

#[test]
fn a_circle_is_found() {
    let folder = std::env::temp_dir().join(format!("circles-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("a")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\n");
    write(
        "a/mod.rs",
        "mod part;\npub(crate) use part::{Part, Other};\n",
    );
    write("a/part.rs", "use crate::b::{self,\n    Thing};\n");
    write("b.rs", "use std::fmt;\nuse super::a::Part as P;\n");
    let package = Package::read(&folder);
    let circles = package.circles();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(circles, [["a::part", "b"]]);
}
