//! What a reader pastes into an empty folder compiles, with the packages as they would be published.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::{cargo, is_published, members, output, read, root};

/// The packages as they would be published, unpacked, by name.
static UNPACKED: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(|| {
    let to = folder("published");
    let mut command = cargo(&root());
    command.args([
        "package",
        "--workspace",
        "--no-verify",
        "--offline",
        "--allow-dirty",
    ]);
    output(command.arg("--target-dir").arg(&to));
    let published = members().into_iter().filter(is_published);
    published
        .map(|package| {
            let name = package["name"].as_str().unwrap().to_owned();
            let stem = format!("{name}-{}", package["version"].as_str().unwrap());
            // Not with the packages' own times of change: cargo would take a changed file for an old one.
            let mut tar = Command::new("tar");
            tar.args(["-x", "-z", "-m", "-f"])
                .arg(to.join("package").join(format!("{stem}.crate")))
                .arg("-C")
                .arg(&to);
            output(&mut tar);
            (name, to.join(stem))
        })
        .collect()
});

/// An empty folder for this purpose.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("src")).unwrap();
    folder
}

/// The first block of this language that contains a text.
fn block(page: &str, language: &str, contains: &str) -> String {
    let blocks = page.split("\n```").skip(1).step_by(2);
    let mut of_language = blocks.filter_map(|block| {
        let (info, text) = block.split_once('\n')?;
        let first = info.split(',').next()?;
        (first == language && text.contains(contains)).then(|| format!("{text}\n"))
    });
    let found = of_language.next();
    found.unwrap_or_else(|| panic!("no block {language} with {contains:?}"))
}

/// A project of these texts, beside the folder of the published packages.
fn project(name: &str, dependencies: &str, file: &str, source: &str) -> PathBuf {
    let folder = folder(name);
    let mut manifest = format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n{dependencies}\n[workspace]\n\n[patch.crates-io]\n"
    );
    for (name, path) in &*UNPACKED {
        writeln!(manifest, "{name} = {{ path = {path:?} }}").unwrap();
    }
    // The profiles of the workspace, so that what it has built is not built again.
    let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
    let profile = toml::Table::from_iter([("profile".to_owned(), workspace["profile"].clone())]);
    write!(manifest, "\n{profile}").unwrap();
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.join("Cargo.lock"), read("Cargo.lock")).unwrap();
    std::fs::write(folder.join(file), source).unwrap();
    folder
}

/// Checks the project without the network and without warnings.
fn compiles(project: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut command = cargo(project);
    command.args(["check", "--offline", "--target-dir"]);
    let output = output(command.arg(target));
    let messages = String::from_utf8(output.stderr).unwrap();
    // A package that this project does not need, such as the command line, is a patch without use.
    let mut warnings = messages.lines().filter(|line| line.starts_with("warning"));
    let unused = |line: &str| {
        line.starts_with("warning: patch `") && line.ends_with("not used in the crate graph")
    };
    assert!(warnings.all(unused), "{messages}");
}

#[test]
fn the_readmes_first_program_compiles_as_pasted() {
    let readme = read("README.md");
    let dependencies = block(&readme, "toml", "[dependencies]");
    let program = block(&readme, "rust", "");
    assert!(program.contains("conductor::main!"), "{program}");
    compiles(&project("pasted", &dependencies, "src/main.rs", &program));
}

/// A library with tasks leaves the features to the program.
#[test]
fn a_library_compiles_without_features() {
    let guide = read("conductor/guide/setup.md");
    let dependencies = block(&guide, "toml", "default-features = false");
    let library = block(&guide, "rust", "pub async fn");
    // A feature that the workspace uses, so that what depends on tokio is not built again.
    let dependencies = dependencies + "tokio = { version = \"1\", features = [\"process\"] }\n";
    compiles(&project(
        "media-tasks",
        &dependencies,
        "src/lib.rs",
        &library,
    ));
}

/// The first screen is one text, for readers of the repository and of the crate's documentation.
#[test]
fn the_crates_documentation_begins_as_the_readme_does() {
    let docs: String = read("conductor/src/lib.rs")
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .fold(String::new(), |docs, line| {
            docs + line.strip_prefix(' ').unwrap_or(line) + "\n"
        });
    let readme = read("README.md");
    for (language, contains) in [("toml", "[dependencies]"), ("rust", "")] {
        let [in_readme, in_docs] = [&readme, &docs].map(|page| {
            let page = page.replace("```no_run", "```rust");
            block(&page, language, contains)
        });
        assert_eq!(in_readme, in_docs);
    }
}
