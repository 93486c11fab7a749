//! The SQLSTATEs by which SQL and Rust understand each other.
//!
//! Every code that a function in `migrations/functions/` raises is in [`RAISED`], and no other file
//! of this crate, of the runtime or of the command line names a code.

/// A call names a task that the database does not know.
pub const UNKNOWN_TASK: &str = "CD001";
/// An argument of a call is invalid.
pub const INVALID_ARGUMENT: &str = "CD002";
/// The orchestrator's lease has expired, so it may not claim.
pub const LEASE_LOST: &str = "CD003";
/// The execution is no longer running under the claim of this handler.
pub const CLAIM_LOST: &str = "CD004";
/// The execution of this handler was cancelled.
pub const CANCELLED: &str = "CD005";
/// The schema has a breaking migration that this build does not know; the detail is its number.
pub const SCHEMA_TOO_NEW: &str = "CD010";

/// Ends an inner block of a row trigger. Internal to SQL.
pub const ROW_RULE_ENDS: &str = "CD000";
/// Another transaction has the execution of a dedupe key; the detail is its id. Internal to SQL.
pub const KEY_IS_HELD: &str = "CD006";
/// Rolls back one try of a keyed invoke. Internal to SQL.
pub const KEY_TRIED: &str = "CD007";

/// A role lacks a right: `insufficient_privilege`.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// A column does not exist: `undefined_column`.
pub const UNDEFINED_COLUMN: &str = "42703";
/// Another transaction holds a lock for too long: `lock_not_available`.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Two transactions wait for each other: `deadlock_detected`.
pub const DEADLOCK_DETECTED: &str = "40P01";
/// A concurrent change prevents the transaction: `serialization_failure`.
pub const SERIALIZATION_FAILURE: &str = "40001";
/// The server refuses writes, as a standby does: `read_only_sql_transaction`.
pub const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// The database is used by other sessions: `object_in_use`.
pub const OBJECT_IN_USE: &str = "55006";
/// The server is shutting down: `admin_shutdown`.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// The server has crashed: `crash_shutdown`.
pub const CRASH_SHUTDOWN: &str = "57P02";
/// The server is starting: `cannot_connect_now`.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// The server has no free connection: `too_many_connections`.
pub const TOO_MANY_CONNECTIONS: &str = "53300";

/// Every code that the SQL functions raise, with the name that they use for it, if any.
pub const RAISED: &[(&str, Option<&str>)] = &[
    (ROW_RULE_ENDS, None),
    (UNKNOWN_TASK, None),
    (INVALID_ARGUMENT, None),
    (LEASE_LOST, None),
    (CLAIM_LOST, None),
    (CANCELLED, None),
    (KEY_IS_HELD, None),
    (KEY_TRIED, None),
    (SCHEMA_TOO_NEW, None),
    (SERIALIZATION_FAILURE, None),
    (INSUFFICIENT_PRIVILEGE, Some("insufficient_privilege")),
    (UNDEFINED_COLUMN, Some("undefined_column")),
    (LOCK_NOT_AVAILABLE, Some("lock_not_available")),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use conductor_migrations::FunctionSet;

    use super::RAISED;

    /// Returns the quoted words that follow `errcode =`.
    fn raised_by(sql: &'static str) -> impl Iterator<Item = &'static str> {
        sql.split("errcode").skip(1).map(|rest| {
            let rest = rest.trim_start().strip_prefix('=').expect(rest);
            let rest = rest.trim_start().strip_prefix('\'').expect(rest);
            rest.split('\'').next().expect(rest)
        })
    }

    #[test]
    fn the_table_has_every_code_that_the_functions_raise_and_no_other() {
        let functions = FunctionSet::current().functions;
        let raised: BTreeSet<&str> = functions.iter().flat_map(|f| raised_by(f.sql)).collect();
        let listed: BTreeSet<&str> = RAISED
            .iter()
            .map(|(code, name)| name.unwrap_or(code))
            .collect();
        assert_eq!(raised, listed);
    }

    fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, into),
                false if path.extension().is_some_and(|e| e == "rs") => into.push(path),
                false => {}
            }
        }
    }

    /// Whether a string literal looks like a SQLSTATE: five digits or capitals, and a digit among them.
    fn is_code(literal: &str) -> bool {
        literal.len() == 5
            && literal.chars().any(|c| c.is_ascii_digit())
            && (literal.chars()).all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
    }

    #[test]
    fn no_other_file_names_a_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for package in ["conductor-postgres", "conductor-runtime", "conductor-cli"] {
            sources(&root.join(package).join("src"), &mut files);
        }
        assert!(files.len() > 50, "{}", files.len());
        let elsewhere = files.iter().filter(|file| !file.ends_with("sqlstate.rs"));
        for file in elsewhere {
            let text = std::fs::read_to_string(file).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let mut literals = code.flat_map(|line| line.split('"'));
            let found = literals.find(|literal| is_code(literal));
            assert_eq!(found, None, "{}", file.display());
        }
    }
}
