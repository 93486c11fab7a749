//! Random programs of steps, sleeps, children, joins, failures and cancels, against a model: each
//! ends as the model says and has the effects that it says, whatever crashes meanwhile.
//!
//! `MODEL_CASES` says how many cases are tried, `MODEL_SEED` which ones (a failure names its seed),
//! and `MODEL_CASE` holds a single one, as a failure prints it.

mod case;
mod interpreter;
mod oracle;
mod program;
mod trial;
mod verdict;
mod victim;

use std::cell::RefCell;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use uuid::Uuid;

use case::{Case, calm, stormy};
use trial::{Ground, trial};

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

fn check(cases: u32, strategy: impl Strategy<Value = Case>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // A new one after each failure, which may have left anything.
    let ground = RefCell::new(None);
    let tried = |case: &Case| {
        let tried = async {
            let found = match ground.take() {
                Some(found) => found,
                None => Ground::new().await?,
            };
            trial(&found, case).await?;
            found.clear().await?;
            ground.replace(Some(found));
            Ok(())
        };
        let outcome: anyhow::Result<()> = runtime.block_on(tried);
        outcome.map_err(|differences| format!("{differences:#}"))
    };
    if let Ok(case) = std::env::var("MODEL_CASE") {
        let case = serde_json::from_str(&case).unwrap();
        return tried(&case).unwrap();
    }
    let cases = variable("MODEL_CASES").map_or(cases, |cases| cases.try_into().unwrap());
    let seed = variable("MODEL_SEED").unwrap_or_else(|| Uuid::now_v7().as_u64_pair().1);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, |case| {
        tried(&case).map_err(|differences| {
            let case = serde_json::to_string(&case).unwrap();
            TestCaseError::fail(format!("{differences}\nMODEL_CASE='{case}'"))
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, _)) => panic!("MODEL_SEED={seed}\n{reason}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn programs_do_what_the_model_says() {
    check(10, calm());
}

#[test]
fn programs_do_what_the_model_says_although_processes_die() {
    check(4, stormy());
}
