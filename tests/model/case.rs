use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::program::{Program, program};

/// Programs that run side by side, and what is done to them meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    pub roots: Vec<Root>,
    pub deaths: Vec<Death>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Root {
    pub program: Program,
    /// It is cancelled by another after so many milliseconds.
    pub cancelled_after: Option<u64>,
}

/// How a process ends by SIGKILL.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Death {
    /// When it has passed so many boundaries of its handlers.
    AtBoundary(u32),
    /// After so many milliseconds.
    After(u64),
}

fn root(longest: u64) -> impl Strategy<Value = Root> {
    let cancelled_after = prop_oneof![6 => Just(None), 1 => option::of(0..longest)];
    (program(3), cancelled_after).prop_map(|(program, cancelled_after)| Root {
        program,
        cancelled_after,
    })
}

/// Runs without crashes.
pub fn calm() -> impl Strategy<Value = Case> {
    vec(root(100), 1..12).prop_map(|roots| Case {
        roots,
        deaths: Vec::new(),
    })
}

/// Runs in which processes die; fewer times than an execution is allowed to see.
pub fn stormy() -> impl Strategy<Value = Case> {
    let death = prop_oneof![
        2 => (0..40_u32).prop_map(Death::AtBoundary),
        1 => (50..300_u64).prop_map(Death::After),
    ];
    (vec(root(1000), 1..8), vec(death, 1..5)).prop_map(|(roots, deaths)| Case { roots, deaths })
}
