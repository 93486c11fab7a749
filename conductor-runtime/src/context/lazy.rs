use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that is built from its options when it is first polled, so that one type is both a
/// builder and a future that `join!` accepts.
pub(super) enum Lazy<'c, O, T> {
    Options(Option<O>),
    Running(Pin<Box<dyn Future<Output = T> + Send + 'c>>),
}

impl<'c, O, T> Lazy<'c, O, T> {
    pub(super) fn new(options: O) -> Self {
        Self::Options(Some(options))
    }

    /// Changes the options. Has no effect once the future runs.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut O)) {
        if let Self::Options(Some(options)) = self {
            change(options);
        }
    }

    pub(super) fn poll_with<F>(
        &mut self,
        cx: &mut Context<'_>,
        start: impl FnOnce(O) -> F,
    ) -> Poll<T>
    where
        F: Future<Output = T> + Send + 'c,
    {
        if let Self::Options(options) = self
            && let Some(options) = options.take()
        {
            *self = Self::Running(Box::pin(start(options)));
        }
        match self {
            Self::Running(future) => future.as_mut().poll(cx),
            Self::Options(_) => Poll::Pending,
        }
    }
}
