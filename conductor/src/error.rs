//! Errors of the library, recorded errors of handlers, and what they say about retries.

pub use conductor_runtime::error::{Error, Result};
pub use conductor_runtime::failure::Failure;
pub use conductor_runtime::sqlstate;
pub use conductor_runtime::verdict::{RetryExt, RetryVerdict, Verdict};
