//! Row changes: triggers on tables start tasks and end waits. The tasks are not linked, because they want tables that
//! other tests do not have: each test has a registry of its own.

mod faults;
mod installation;
mod order;
mod security;
mod snapshots;
mod statements;
mod tables;
mod values;
mod waits;

use std::ops::Deref;

use conductor::Registry;
use conductor::testing::{FromTest, TestConductor};

/// A database of a test's own, on which these tasks run.
struct Listening(TestConductor);

impl FromTest for Listening {
    fn from_test(test: TestConductor) -> (Self, Option<TestConductor>) {
        (Self(test.tasks(tasks())), None)
    }
}

impl Deref for Listening {
    type Target = TestConductor;

    fn deref(&self) -> &TestConductor {
        &self.0
    }
}

fn tasks() -> Registry {
    tables::add(waits::add(order::add(Registry::new())))
}
