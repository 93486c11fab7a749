use std::sync::OnceLock;

use crate::checksum;

/// One file of `functions/`: a function that others call, and what it alone calls.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// The file's name without `.sql`.
    pub name: &'static str,
    /// The statements. Each is `create or replace`, so they can be applied to a database that has them.
    pub sql: &'static str,
}

macro_rules! functions {
    ($($name:literal,)*) => {
        &[$(Function { name: $name, sql: include_str!(concat!("../functions/", $name, ".sql")) }),*]
    };
}

/// The functions of one build.
///
/// They are applied together, in one transaction with missing migrations. A database notes the version and the checksum of
/// the set it has. A build applies its own set if that differs and is of no later version, so:
///
/// - a newer build replaces the functions under older processes that still run. They must keep working: a
///   function keeps its name, its arguments and what its results mean, and a changed signature gets a new name;
/// - an older build that starts later leaves the newer functions in place.
#[derive(Debug, Clone)]
pub struct FunctionSet {
    /// Major, minor and patch version of this package.
    pub version: [i32; 3],
    /// The MD5 of all statements, in hexadecimal.
    pub checksum: String,
    /// In the order in which they are applied: Postgres looks at the bodies of some when it creates them.
    pub functions: &'static [Function],
}

impl FunctionSet {
    /// The functions of this build.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<FunctionSet> = OnceLock::new();
        CURRENT.get_or_init(|| {
            let version = [
                number(env!("CARGO_PKG_VERSION_MAJOR")),
                number(env!("CARGO_PKG_VERSION_MINOR")),
                number(env!("CARGO_PKG_VERSION_PATCH")),
            ];
            Self::new(version, FUNCTIONS)
        })
    }

    /// A set of functions, with its checksum.
    pub fn new(version: [i32; 3], functions: &'static [Function]) -> Self {
        Self {
            version,
            checksum: checksum(functions.iter().map(|function| function.sql)),
            functions,
        }
    }
}

const FUNCTIONS: &[Function] = functions![
    "json",
    "clock",
    "uuid7",
    "wait_for_lock",
    "priorities",
    "declare_tasks",
    "follow_moves",
    "start_orchestrator",
    "chores",
    "recover",
    "give_back",
    "heal",
    "wake",
    "invoke_many",
    "invoke_again",
    "invoke_new",
    "meet_keys",
    "invoke_keyed",
    "invoke_mixed",
    "invoke",
    "windows",
    "look",
    "take",
    "claim_plain",
    "candidates",
    "claim_gated",
    "claim",
    "conclude",
    "complete",
    "fail",
    "release",
    "leave_unreadable",
    "disown",
    "finish_and_claim",
    "cancel",
    "retry",
    "pause_queue",
    "watch",
    "has_work",
    "prune",
    "memo",
    "do_deferred",
    "settle",
    "withdraw",
    "record_steps",
    "begin_waits",
    "suspend",
    "wait_beside",
    "report",
    "declare_schedules",
    "schedule",
    "trigger_schedule",
    "due_schedules",
    "tick",
    "number_lane",
    "declare_limits",
    "lanes",
    "rank_in_lanes",
    "admit",
    "take_turns",
    "pass_turns",
    "close_lanes",
    "heal_lanes",
    "why_reasons",
    "why_not_running",
    "queue_counts",
    "filters",
    "field_hashes",
    "publish",
    "deliver",
    "dispatch",
    "emit",
    "catch_up",
    "subscriptions",
    "prune_events",
    "row_values",
    "row_rules",
    "rows_changed",
    "row_triggers",
    "watch_rows",
    "roles",
];

/// A part of a version; cargo gives nothing else.
fn number(text: &str) -> i32 {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::FunctionSet;

    /// How many files a folder of this package has.
    pub(crate) fn files(folder: &str) -> usize {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[test]
    fn each_file_is_listed_once() {
        let mut names: Vec<&str> = FunctionSet::current()
            .functions
            .iter()
            .map(|f| f.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FunctionSet::current().functions.len());
        assert_eq!(names.len(), files("functions"));
    }

    #[test]
    fn each_statement_can_be_applied_again() {
        for function in FunctionSet::current().functions {
            let lines = function.sql.lines();
            for line in lines.filter(|line| line.starts_with("create ")) {
                assert!(
                    line.starts_with("create or replace "),
                    "{}: {line}",
                    function.name
                );
            }
        }
    }

    #[test]
    fn a_version_is_read() {
        let [major, minor, patch] = FunctionSet::current().version;
        assert_eq!(
            format!("{major}.{minor}.{patch}"),
            env!("CARGO_PKG_VERSION")
        );
    }
}
