//! Each package that can be published is complete, and the checkout needs nothing that some systems lack.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{is_published, members, read, root};

/// What a published package lacks.
fn faults(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap();
    let folder = Path::new(package["manifest_path"].as_str().unwrap());
    let folder = folder.parent().unwrap();
    let mut faults = Vec::new();
    let mut wants = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{name}: {what}"));
        }
    };
    for field in ["description", "license", "readme", "rust_version"] {
        wants(package[field].is_string(), field);
    }
    for field in ["keywords", "categories"] {
        wants(!package[field].as_array().unwrap().is_empty(), field);
    }
    if let Some(readme) = package["readme"].as_str() {
        wants(folder.join(readme).is_file(), "the file of `readme`");
    }
    let docs = &package["metadata"]["docs"]["rs"];
    wants(docs["all-features"] == true, "docs.rs with all features");

    let manifest: toml::Table = read(folder.join("Cargo.toml")).parse().unwrap();
    let include = manifest["package"].get("include");
    let include: Vec<&str> = include
        .and_then(|list| list.as_array())
        .map(|list| list.iter().filter_map(|entry| entry.as_str()).collect())
        .unwrap_or_default();
    wants(include.contains(&"src/**"), "`src/**` in `include`");
    wants(include.contains(&"LICENSE-*"), "`LICENSE-*` in `include`");
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let own = std::fs::read_to_string(folder.join(licence));
        wants(own.ok() == Some(read(licence)), "a copy of each licence");
    }
    faults
}

#[test]
fn each_published_package_is_complete() {
    let packages = members();
    let published: Vec<&Value> = packages.iter().filter(|one| is_published(one)).collect();
    assert!(published.len() >= 5, "{}", published.len());
    let faults: Vec<String> = published.into_iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The minimum Rust version stands in the manifest; texts repeat it.
#[test]
fn texts_name_the_minimum_rust_version_of_the_manifest() {
    for package in members() {
        let version = package["rust_version"].as_str().unwrap();
        for text in ["README.md", "CONTRIBUTING.md"] {
            let named = format!("Rust {version}");
            assert!(read(text).contains(&named), "{text} lacks {named:?}");
        }
    }
}

/// Some systems check out a symbolic link as a file with a path in it.
#[test]
fn the_checkout_has_no_symbolic_links() {
    let listed = Command::new("git")
        .args(["ls-files", "-s"])
        .current_dir(root())
        .output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        println!("not a checkout, so nothing is checked");
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() > 100, "{listed}");
    let links: Vec<&str> = listed
        .lines()
        .filter(|line| line.starts_with("120000"))
        .collect();
    assert!(links.is_empty(), "{links:#?}");
}
