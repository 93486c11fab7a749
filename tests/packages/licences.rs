//! `deny.toml` for machines without `cargo deny`: what may come in with a dependency.

use std::collections::BTreeMap;

use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

use super::{metadata, read};

/// The licences that `deny.toml` allows.
fn allowed() -> Vec<LicenseReq> {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let allow = deny["licenses"]["allow"].as_array().unwrap();
    allow
        .iter()
        .map(|licence| {
            let licence = licence.as_str().unwrap();
            let expression = Expression::parse(licence).unwrap();
            expression.requirements().next().unwrap().req.clone()
        })
        .collect()
}

/// Why a package with this licence may not come in.
fn fault(licence: &Value, allowed: &[LicenseReq]) -> Option<String> {
    let Some(licence) = licence.as_str() else {
        return Some("no licence is named".to_owned());
    };
    match Expression::parse_mode(licence, ParseMode::LAX) {
        Ok(expression) if expression.evaluate(|wanted| allowed.contains(wanted)) => None,
        Ok(_) => Some(format!("{licence} is not allowed")),
        Err(error) => Some(error.to_string()),
    }
}

/// All packages that some build on this kind of machine uses, by name and version.
fn packages() -> BTreeMap<String, Value> {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let targets = deny["graph"]["targets"].as_array().unwrap().iter();
    let mut arguments = vec!["--all-features"];
    for target in targets {
        arguments.extend(["--filter-platform", target.as_str().unwrap()]);
    }
    let mut metadata = metadata(&arguments);
    let nodes = metadata["resolve"]["nodes"].take();
    let used: Vec<&Value> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["id"])
        .collect();
    let Value::Array(packages) = metadata["packages"].take() else {
        panic!("no packages");
    };
    packages
        .into_iter()
        .filter(|package| used.contains(&&package["id"]))
        .map(|package| {
            let text = |key: &str| package[key].as_str().unwrap().to_owned();
            (format!("{} {}", text("name"), text("version")), package)
        })
        .collect()
}

#[test]
fn each_dependency_has_a_licence_that_is_allowed() {
    let allowed = allowed();
    let packages = packages();
    assert!(packages.len() > 150, "{}", packages.len());
    let faults: Vec<String> = packages
        .iter()
        .filter_map(|(name, package)| {
            let fault = fault(&package["license"], &allowed)?;
            Some(format!("{name}: {fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rule `wildcards` of `deny.toml`, which lets packages of the workspace name one another without a version.
#[test]
fn no_dependency_accepts_every_version() {
    let mut faults = Vec::new();
    for (name, package) in packages() {
        for dependency in package["dependencies"].as_array().unwrap() {
            if dependency["req"] == "*" && dependency["path"].is_null() {
                faults.push(format!("{name}: {}", dependency["name"]));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_licence_that_is_not_listed_is_a_fault() {
    let allowed = allowed();
    let fault = |licence: &str| fault(&Value::from(licence), &allowed);
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert_eq!(fault(good), None, "{good}");
    }
    for bad in [
        "GPL-3.0",
        "MIT AND AGPL-3.0-only",
        "Apache-2.0 WITH GCC-exception-3.1",
        "Mine",
    ] {
        assert!(fault(bad).is_some(), "{bad}");
    }
    assert!(super::licences::fault(&Value::Null, &allowed).is_some());
}
