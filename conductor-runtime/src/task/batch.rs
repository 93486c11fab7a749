use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::Task;
use super::output::encode_output;
use crate::codec;
use crate::context::BatchContext;
use crate::unreadable::Unreadable;

/// The code of a [`Task`] whose executions run together.
///
/// Implemented by `#[task(batch(…))]`, called by the worker.
pub trait BatchHandler: Task {
    /// Runs one attempt of each item and returns one result for each, in their order. An error ends
    /// the attempts of all items as failed.
    fn call_batch(
        ctx: &BatchContext,
        items: Vec<Self::Payload>,
    ) -> impl Future<Output = anyhow::Result<Vec<anyhow::Result<Self::Output>>>> + Send;
}

/// How many executions of a task run together, and how long the first waits for others.
#[derive(Clone, Copy)]
pub struct BatchDefinition {
    /// The most items in a batch. Default: 100.
    pub max_size: u32,
    /// How long the first item waits in its worker for others. Default: 500 ms.
    pub max_wait: Duration,
    pub(crate) decode: fn(&[String]) -> Decoded,
}

impl BatchDefinition {
    pub(super) const fn of<T: BatchHandler>(max_size: u32, max_wait_ms: u64) -> Self {
        Self {
            max_size,
            max_wait: Duration::from_millis(max_wait_ms),
            decode: decode::<T>,
        }
    }
}

impl fmt::Debug for BatchDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchDefinition")
            .field("max_size", &self.max_size)
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}

/// A running batch, whose outputs are encoded.
pub(crate) type ErasedBatch<'a> =
    Pin<Box<dyn Future<Output = anyhow::Result<Vec<anyhow::Result<String>>>> + Send + 'a>>;

/// The decoded payloads of a batch.
pub(crate) struct Decoded {
    /// For each payload why it cannot be read, or `None`.
    pub(crate) refused: Vec<Option<Unreadable>>,
    pub(crate) items: Box<dyn DecodedItems>,
}

/// The readable payloads, in their order.
pub(crate) trait DecodedItems: Send {
    fn run<'a>(self: Box<Self>, ctx: &'a BatchContext) -> ErasedBatch<'a>;
}

struct Items<T: BatchHandler>(Vec<T::Payload>);

impl<T: BatchHandler> DecodedItems for Items<T> {
    fn run<'a>(self: Box<Self>, ctx: &'a BatchContext) -> ErasedBatch<'a> {
        Box::pin(async move {
            let results = T::call_batch(ctx, self.0).await?;
            let encoded = results
                .into_iter()
                .map(|result| encode_output::<T>(&result?));
            Ok(encoded.collect())
        })
    }
}

fn decode<T: BatchHandler>(payloads: &[String]) -> Decoded {
    let mut items = Vec::with_capacity(payloads.len());
    let refused = payloads
        .iter()
        .map(|payload| match codec::decode_payload::<T>(payload) {
            Ok(item) => {
                items.push(item);
                None
            }
            Err(unreadable) => Some(unreadable),
        });
    Decoded {
        refused: refused.collect(),
        items: Box::new(Items::<T>(items)),
    }
}

/// The forms of a batch handler's result; called by the code that `#[task]` generates.
#[doc(hidden)]
pub mod batch_results {
    use super::super::HandlerError;

    /// Each item has its own result.
    pub fn each<T, I, E>(
        result: Result<Vec<Result<T, I>>, E>,
        _: usize,
    ) -> anyhow::Result<Vec<anyhow::Result<T>>>
    where
        I: HandlerError,
        E: HandlerError,
    {
        let results = result.map_err(Into::into)?.into_iter();
        Ok(results.map(|result| result.map_err(Into::into)).collect())
    }

    /// All items completed, with one output each.
    pub fn all<T, E: HandlerError>(
        result: Result<Vec<T>, E>,
        _: usize,
    ) -> anyhow::Result<Vec<anyhow::Result<T>>> {
        Ok(result.map_err(Into::into)?.into_iter().map(Ok).collect())
    }

    /// All items completed, without outputs.
    pub fn done<E: HandlerError>(
        result: Result<(), E>,
        items: usize,
    ) -> anyhow::Result<Vec<anyhow::Result<()>>> {
        result.map_err(Into::into)?;
        Ok((0..items).map(|_| Ok(())).collect())
    }
}
