//! The packages of the workspace: what they say of themselves, what they depend on, and what would be published.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "packages/licences.rs"]
mod licences;
#[path = "packages/manifests.rs"]
mod manifests;
#[path = "packages/pasted.rs"]
mod pasted;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cargo that runs this test.
fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder);
    // Build scripts of dependencies run again if what cargo has set for this test changes.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|set| text.starts_with(set))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command that must succeed.
fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{error}");
    output
}

/// What cargo says of the workspace's packages.
fn metadata(arguments: &[&str]) -> Value {
    let mut command = cargo(&root());
    command.args(["metadata", "--format-version=1", "--locked"]);
    let output = output(command.args(arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The packages of the workspace.
fn members() -> Vec<Value> {
    let metadata = metadata(&["--no-deps"]);
    metadata["packages"].as_array().unwrap().clone()
}

fn is_published(package: &Value) -> bool {
    package["publish"]
        .as_array()
        .is_none_or(|to| !to.is_empty())
}
