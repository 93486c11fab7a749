use std::future::Future;

/// The body of a [`TaskContext::step`](super::TaskContext::step): an `async || { … }` whose future is `Send`.
///
/// Implemented for every such closure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the body of a step",
    label = "expected a closure such as `async || {{ … }}`",
    note = "the future of a body must be `Send`, which a bound with `AsyncFnOnce` cannot require: a helper takes `body: impl FnOnce() -> Fut + Send`, with `Fut: Future<Output = anyhow::Result<T>> + Send` and `T: conductor::StepValue`"
)]
pub trait StepBody<Fut>: FnOnce() -> Fut + Send {}

#[diagnostic::do_not_recommend]
impl<F: FnOnce() -> Fut + Send, Fut: Future> StepBody<Fut> for F {}

/// The body of a [`TaskContext::retry_step`](super::TaskContext::retry_step), which can be called again.
///
/// Implemented for every such closure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the body of a step",
    label = "expected a closure such as `async || {{ … }}`",
    note = "the future of a body must be `Send`, which a bound with `AsyncFn` cannot require: a helper takes `body: impl FnMut() -> Fut + Send`, with `Fut: Future<Output = anyhow::Result<T>> + Send` and `T: conductor::StepValue`"
)]
pub trait RetryBody<Fut>: FnMut() -> Fut + Send {}

#[diagnostic::do_not_recommend]
impl<F: FnMut() -> Fut + Send, Fut: Future> RetryBody<Fut> for F {}
