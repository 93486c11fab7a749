//! The example `10_batches`, as its header tells.

use conductor::testing::{TestConductor, run};

use super::program::Program;
use super::refused;
use crate::support::{count, eventually, number};

const STORED: &str = "select count(*) from readings";

#[test]
fn readings_are_stored_in_batches_each_with_its_own_result() {
    run(|test: TestConductor| async move {
        let program = Program::example("10_batches", &test);
        let worker = program.worker();
        let imported = program.ok(&["invoke", "import", "readings=2000", "--wait"]);
        assert_eq!(imported, "2000");
        worker.says("stored 500 readings");
        eventually("all readings", || async {
            count(&test, "state = 'completed' and task = 'record'")
                .await
                .unwrap()
                == 2000
        })
        .await;
        assert_eq!(number(&test, STORED).await, 2000);

        let one = |minute, celsius| {
            let arguments = ["invoke", "record", "sensor=roof", minute, celsius, "--wait"];
            program.start(&arguments)
        };
        // Together, as they start within a second of one another; if not, alone.
        let (good, bad) = (
            one("minute=1", "celsius=21.5"),
            one("minute=2", "celsius=-300"),
        );
        refused(&bad.end(), 1, &["-300°C is colder than cold can be"]);
        let good = good.end();
        assert_eq!(good.code, Some(0), "{good:?}");
        assert_eq!(number(&test, STORED).await, 2001);

        let same = ["sensor=roof", "minute=3", "celsius=20", "--batch", "1000"];
        program.ok(&[&["invoke", "record"], &same[..]].concat());
        eventually("the last ones", || async {
            count(&test, "state = 'completed' and task = 'record'")
                .await
                .unwrap()
                == 3001
        })
        .await;
        assert_eq!(number(&test, STORED).await, 2002);
    });
}
