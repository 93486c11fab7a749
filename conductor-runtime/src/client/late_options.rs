//! The options of an invoke on the handle that its `.await` returns. The compiler refuses each with a hint.

use super::Execution;
use crate::task::Task;

/// Implemented by nothing: an execution that exists takes no options.
#[diagnostic::on_unimplemented(
    message = "the options of an invoke come before its `.await`",
    label = "this execution was invoked already",
    note = "write `conductor.invoke::<T>(payload).delay(duration).await?`"
)]
pub trait TakesOptions {}

#[doc(hidden)]
impl<T: Task> Execution<T> {
    pub fn run_at(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn delay(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn priority(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn dedupe_key(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn throttle(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn debounce(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn max_wait(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }

    pub fn in_transaction(self, _: impl Sized) -> Self
    where
        Self: TakesOptions,
    {
        self
    }
}
