use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that a step can record: owned, `Send`, with serde's `Serialize` and `Deserialize`.
///
/// Implemented for every such type. Name it in the bounds of a helper that is generic over the value of a step:
///
/// ```
/// use conductor::StepValue;
/// use conductor::prelude::*;
///
/// async fn logged<T, Fut>(
///     ctx: &TaskContext,
///     key: &str,
///     body: impl FnOnce() -> Fut + Send,
/// ) -> anyhow::Result<T>
/// where
///     T: StepValue,
///     Fut: Future<Output = anyhow::Result<T>> + Send,
/// {
///     println!("step {key}");
///     ctx.step(key, body).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of a step",
    label = "the body returns `{Self}`, which cannot be recorded",
    note = "a step records an owned value with serde: derive `serde::Serialize` and `serde::Deserialize`, or enable the feature `serde` of the crate that has the type",
    note = "if nothing reads the value later, end the body with `anyhow::Ok(())`"
)]
pub trait StepValue: Serialize + DeserializeOwned + Send {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send> StepValue for T {}
