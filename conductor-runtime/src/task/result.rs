/// The return type of a handler: a `Result` whose error converts into [`anyhow::Error`].
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    label = "expected a `Result`",
    note = "return `anyhow::Result<T>`, or `Result<T, E>` with an `E` that implements `std::error::Error + Send + Sync`"
)]
pub trait TaskResult {
    /// The type in `Ok`.
    type Output;
    /// Returns the same result with the error converted.
    fn into_result(self) -> anyhow::Result<Self::Output>;
}

impl<T, E: Into<anyhow::Error>> TaskResult for Result<T, E> {
    type Output = T;

    fn into_result(self) -> anyhow::Result<T> {
        self.map_err(Into::into)
    }
}
