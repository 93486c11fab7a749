//! How long a statement and a call may take.

use std::time::Duration;

/// How long one statement may take. A network that drops packets may stay silent for a quarter of an hour, while a
/// new connection might work.
pub const ANSWER: Duration = Duration::from_secs(30);
/// How long a client's call is retried before it returns an error.
pub const OUTAGE: Duration = Duration::from_secs(30);
