use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::memo::{Memo, Recorded, Wait};

/// Says what its branch waits for until it is dropped, as `select!` does with the branches that lose. Ready when all of
/// it has come while a step beside it ran; where none runs, the execution is suspended, and this is dropped.
#[derive(Debug)]
pub(super) struct Block<'c> {
    memo: &'c Memo,
    keys: Vec<String>,
}

impl<'c> Block<'c> {
    pub(super) fn on(memo: &'c Memo, waits: Vec<(String, Wait)>) -> Self {
        let mut keys = Vec::with_capacity(waits.len());
        for (key, wait) in waits {
            memo.wait(&key, wait);
            keys.push(key);
        }
        Self { memo, keys }
    }
}

impl Future for Block<'_> {
    /// What came, in the order of the waits.
    type Output = Vec<Recorded>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.memo.poll_came(self.keys.iter(), cx)
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        for key in &self.keys {
            self.memo.withdraw(key);
        }
    }
}
