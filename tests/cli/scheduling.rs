//! The examples `04_cron` and `05_dynamic_schedule`, as their headers tell.

use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;

use super::program::Program;
#[cfg(target_os = "linux")]
use crate::support::wrong_clock;

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

/// `schedule`, `schedules` and `invoke --delay` of a machine whose clock is hours wrong.
#[cfg(target_os = "linux")]
#[test]
fn a_wrong_clock_of_the_clients_machine_changes_nothing() {
    run(|test: TestConductor| async move {
        let program = Program::example("05_dynamic_schedule", &test);
        let worker = program.worker();
        for hours in [9, -18] {
            let says = |arguments: &[&str]| {
                let mut command = program.command(arguments);
                wrong_clock(&mut command, hours);
                let output = command.output().unwrap();
                assert!(output.status.success(), "{arguments:?}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            let word = format!("word=off by {hours}");
            let said = says(&["schedule", "dynamic", "each", "* * * * * *", &word]);
            // The tick may be over when it is told.
            let near = ["ms)", "ms ago)", "(in 1s)", "(1s ago)"];
            assert!(near.iter().any(|near| said.contains(near)), "{said}");
            worker.says(&format!("off by {hours}, by Schedule"));
            let table = says(&["schedules"]);
            assert!(
                !table.contains("h ago") && !table.contains("in 9h"),
                "{table}"
            );
            says(&["unschedule", "dynamic", "each"]);
            let word = format!("word=late by {hours}");
            says(&["invoke", "dynamic", &word, "--delay", "1s", "--wait"]);
            worker.says(&format!("late by {hours}, by Invoke"));
        }
    });
}
