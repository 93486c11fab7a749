/// The return type of a handler: a `Result` with a [`HandlerError`].
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    label = "expected a `Result`",
    note = "return `anyhow::Result<T>`, or `Result<T, E>` with an `E` that implements `std::error::Error + Send + Sync`"
)]
pub trait TaskResult {
    /// The type in `Ok`.
    type Output;
    /// The type in `Err`.
    type Error;
    /// Returns the result itself.
    fn into_result(self) -> Result<Self::Output, Self::Error>;
}

impl<T, E> TaskResult for Result<T, E> {
    type Output = T;
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

/// Returns the result of a handler with its error converted; called by the code that `#[task]` generates.
///
/// The bound is here and not on [`TaskResult`], so that the compiler reports an unfit error type once.
#[doc(hidden)]
pub fn handler_result<R: TaskResult<Error: HandlerError>>(result: R) -> anyhow::Result<R::Output> {
    result.into_result().map_err(Into::into)
}

/// The error type of a handler, or of the body of a step: any type that converts into [`anyhow::Error`].
///
/// Implemented for `anyhow::Error` and for every type that implements `std::error::Error + Send + Sync + 'static`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a task or of a step",
    label = "this error type does not convert into `anyhow::Error`",
    note = "use `anyhow::Result<T>`, or an error type that implements `std::error::Error + Send + Sync + 'static`",
    note = "`anyhow::anyhow!(…)` makes an error of a text, and `anyhow::Error::from_boxed(…)` makes one of a `Box<dyn Error + Send + Sync>`"
)]
pub trait HandlerError: Into<anyhow::Error> {}

#[diagnostic::do_not_recommend]
impl<E: Into<anyhow::Error>> HandlerError for E {}
