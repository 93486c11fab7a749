//! Why the database could not be used.

use std::sync::Arc;
use std::time::Duration;

/// A result with the error of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the database could not be used. `conductor` makes its own error of it, with the same variants
/// and with advice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused a statement or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The database did not answer while a call was retried.
    #[error("the database has not answered: {reason}")]
    Unavailable {
        /// How long the call was retried.
        waited: Duration,
        /// The driver's last error as text.
        reason: String,
        /// The driver's last error.
        source: Arc<sqlx::Error>,
    },
    /// The address is malformed, or the server does not answer.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The address, without its password.
        url: String,
        /// Why it failed.
        reason: String,
        /// The driver's error; `None` if the address did not reach the driver.
        source: Option<sqlx::Error>,
    },
    /// The schema cannot be brought to this binary's version. Lines behind the first are advice.
    #[error("schema: {0}")]
    Schema(String),
}
