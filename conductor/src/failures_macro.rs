/// Names error types that travel as they are: a value of the type is recorded as JSON, with the type's name as its code, and
/// [`Failure::details`](crate::Failure::details) gives it back in each replay, to the parent, and to callers that wait for the
/// result. The types implement `Serialize`, `DeserializeOwned` and `std::error::Error`. At the top of a module; in a program,
/// each type once.
///
/// ```
/// use conductor::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
/// enum PayError {
///     #[error("the card was declined: {reason}")]
///     Declined { reason: String },
///     #[error("the bank is away")]
///     Away,
/// }
/// conductor::failures!(PayError);
///
/// #[task]
/// async fn pay(ctx: &TaskContext, cents: u64) -> anyhow::Result<String> {
///     let error = match ctx.step("charge", || charge(cents)).await {
///         Ok(receipt) => return Ok(receipt),
///         Err(error) => error,
///     };
///     match ctx.failure(&error).and_then(|failure| failure.details()) {
///         Some(PayError::Declined { reason }) => Ok(format!("another card, please: {reason}")),
///         Some(PayError::Away) | None => Err(error), // the next attempt charges again
///     }
/// }
/// # async fn charge(_: u64) -> Result<String, PayError> { Err(PayError::Away) }
/// ```
#[macro_export]
macro_rules! failures {
    ($($error:ty),+ $(,)?) => {
        $($crate::__private::inventory::submit! {
            $crate::__private::FailureOf::of::<$error>()
        })+
    };
}
