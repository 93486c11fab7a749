use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::memo::{Memo, Wait};

/// Never ready: says what its branch waits for while it is polled, and withdraws it when it is
/// dropped, as `select!` does with the branches that lose.
#[derive(Debug)]
pub(super) struct Block<'c> {
    memo: &'c Memo,
    waits: Vec<(String, Wait)>,
}

impl<'c> Block<'c> {
    pub(super) fn on(memo: &'c Memo, waits: Vec<(String, Wait)>) -> Self {
        for (key, wait) in &waits {
            memo.wait(key, wait.clone());
        }
        Self { memo, waits }
    }
}

impl Future for Block<'_> {
    type Output = std::convert::Infallible;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        for (key, _) in &self.waits {
            self.memo.withdraw(key);
        }
    }
}
