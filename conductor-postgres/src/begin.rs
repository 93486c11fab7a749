//! The words that begin a transaction through a pooler.

/// Clears statements that the pooler's session has prepared for another client under the driver's names.
pub(crate) const AFRESH: &str = "; deallocate all";
/// Ends an idle transaction: a process that is frozen between begin and commit would keep its locks.
const BRIEF: &str = "; set local idle_in_transaction_session_timeout = '10s'";

/// For the library's own statements through a pooler. A handler's transaction may take longer.
pub(crate) fn begin_own() -> String {
    format!("begin{AFRESH}{BRIEF}")
}
