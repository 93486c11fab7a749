use std::future::Future;

use super::Task;
use crate::context::TaskContext;

/// The code of a [`Task`]; implemented by `#[task]`, called by the worker.
pub trait Handler: Task {
    /// Runs one attempt. An error ends the attempt as failed.
    fn call(
        ctx: &TaskContext,
        payload: Self::Payload,
    ) -> impl Future<Output = anyhow::Result<Self::Output>> + Send;
}
