/// Registers error types whose values are kept when they are recorded.
///
/// A value of such a type is recorded as JSON, with the name of the type as its code.
/// [`Failure::details`](crate::Failure::details) returns the value again: in each replay, in the parent, and to callers
/// that wait for the result. The types implement `Serialize`, `DeserializeOwned` and `std::error::Error`.
///
/// Call it at module level. A program registers each type once.
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
///         Some(PayError::Away) | None => Err(error), // the next attempt runs the step again
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
