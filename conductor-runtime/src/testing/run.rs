use std::future::Future;

use super::TestConductor;
use crate::client::Conductor;

/// The argument of a `#[conductor::test]` function: a [`TestConductor`], a [`Conductor`], or none.
#[diagnostic::on_unimplemented(
    message = "a test cannot take `{Self}`",
    note = "take `test: TestConductor`, `conductor: Conductor`, or no argument"
)]
pub trait FromTest: Sized {
    /// Returns the argument, and what must live as long as the test.
    fn from_test(test: TestConductor) -> (Self, Option<TestConductor>);
}

impl FromTest for TestConductor {
    fn from_test(test: TestConductor) -> (Self, Option<TestConductor>) {
        (test, None)
    }
}

impl FromTest for Conductor {
    fn from_test(test: TestConductor) -> (Self, Option<TestConductor>) {
        (test.conductor.clone(), Some(test))
    }
}

/// Runs a test's body with its own runtime and database.
///
/// Called by the code that `#[conductor::test]` generates.
///
/// # Panics
/// If the runtime or the database cannot be created; this fails the test.
pub fn run<A, F>(body: impl FnOnce(A) -> F) -> F::Output
where
    A: FromTest,
    F: Future,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime for the test: {error}"),
    };
    runtime.block_on(async {
        match TestConductor::new().await {
            Ok(test) => {
                let (argument, _test) = A::from_test(test);
                body(argument).await
            }
            Err(error) => panic!("no database for the test: {error}"),
        }
    })
}
