//! The examples `04_cron` and `05_dynamic_schedule`, as their headers tell.

use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;

use super::program::Program;

#[test]
fn a_task_ticks_by_itself_and_runs_by_hand_too() {
    run(|test: TestConductor| async move {
        let cron = Program::example("04_cron", &test);
        let worker = cron.worker();
        worker.says("report by cron, due at ");
        cron.ok(&["invoke", "report", "--wait"]);
        worker.says("report by hand");
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.end().code, Some(0));
    });
}

#[test]
fn two_programs_of_one_package_leave_each_others_schedules_alone() {
    run(|test: TestConductor| async move {
        let cron = Program::example("04_cron", &test);
        let worker = cron.worker();
        worker.says("report by cron, due at ");
        assert!(test.pause_schedule("report", "default").await.unwrap());
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.end().code, Some(0));

        // The other one starts while the first is down.
        let other = Program::on(&test).worker();
        let all = test.schedules().await.unwrap();
        assert_eq!(all.len(), 1);
        assert!(all[0].paused, "{all:?}");
        assert!(!all[0].served, "{all:?}");
        drop(other);
    });
}

#[test]
fn a_task_makes_a_schedule_that_outlives_the_worker_until_a_task_removes_it() {
    run(|test: TestConductor| async move {
        let program = Program::example("05_dynamic_schedule", &test);
        let worker = program.worker();
        program.ok(&["invoke", "start_schedule", "word=hello", "--wait"]);
        worker.says("hello, by Schedule");
        worker.signal(Signal::SIGKILL);
        assert_eq!(worker.end().code, None);

        let worker = program.worker();
        worker.says("hello, by Schedule");
        let stopped = |expected: &str| {
            let said = program.ok(&["invoke", "stop_schedule", "--wait"]);
            assert_eq!(said, expected);
        };
        stopped("true");
        stopped("false");
        assert!(test.schedules().await.unwrap().is_empty());
    });
}
