use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::memo::{Memo, Recorded, Wait};

/// Registers what its branch waits for, until it is dropped, for example by `select!` in a losing branch. Becomes
/// ready once all results have arrived, which is only possible while a step of another branch runs. If none runs, the
/// execution is suspended and this is dropped.
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
    /// The results, in the order of the waits.
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
