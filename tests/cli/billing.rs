//! The example `13_sqlx`: an application with a pool and tables of its own.

use conductor::testing::{TestConductor, run};

use super::program::Program;
use crate::support::{number, orchestrators};

const PRINTED: &str = "\
account 1: statement of 1250 cents
account 2: statement of 300 cents
the import of account 3 failed: no account is charged -5 cents
0 executions for account 3
";

#[test]
fn charges_and_executions_are_committed_together_or_not_at_all() {
    run(|test: TestConductor| async move {
        let program = Program::example("13_sqlx", &test);
        // A second run finds its own tables and those of Conductor.
        for runs in 1..=2 {
            let ended = program.run::<&str>(&[]);
            assert_eq!(
                (ended.code, ended.out.as_str()),
                (Some(0), PRINTED),
                "{ended:?}"
            );
            let statements = number(&test, "select count(*) from billing.statements").await;
            assert_eq!(statements, 2 * runs);
            assert_eq!(
                number(&test, "select count(*) from billing.charges").await,
                0
            );
            assert_eq!(orchestrators(&test).await.unwrap(), 0);
        }
    });
}
