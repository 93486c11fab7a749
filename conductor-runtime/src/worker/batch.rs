use conductor_postgres::Timed;
use conductor_postgres::store::Claimed;
use tokio_util::sync::CancellationToken;

use super::execute::{AttemptEnv, caught, converted, not_converted, unreadable};
use super::outcome::End;
use crate::context::{BatchContext, BatchItem};
use crate::task::{BatchDefinition, DecodedItems, TaskDefinition, Trigger};
use crate::verdict::noting;

/// Runs one attempt of each execution together, and returns their ends in order. `cancels` has one
/// token for each.
pub(super) async fn batch_attempt(
    task: &'static TaskDefinition,
    batch: &'static BatchDefinition,
    claimed: Vec<Claimed>,
    cancels: Vec<CancellationToken>,
    env: AttemptEnv,
) -> Vec<End> {
    let mut payloads = Vec::with_capacity(claimed.len());
    let mut items = Vec::with_capacity(claimed.len());
    let mut refused = Vec::with_capacity(claimed.len());
    for (claimed, cancel) in claimed.into_iter().zip(cancels) {
        if let Some(reason) = &claimed.unreadable {
            refused.push(Some(unreadable(reason)));
            continue;
        }
        let trigger = Trigger::read(claimed.trigger.as_deref());
        match converted(task, &trigger, claimed.trigger.as_deref(), &claimed.payload) {
            Ok(payload) => payloads.push(payload.unwrap_or(claimed.payload)),
            Err(error) => {
                refused.push(Some(not_converted(error)));
                continue;
            }
        }
        refused.push(None);
        items.push(BatchItem {
            execution_id: claimed.id,
            attempt: u32::try_from(claimed.attempt).unwrap_or(1),
            origin: claimed.origin,
            cancel,
        });
    }
    let decoded = (batch.decode)(&payloads);
    drop(payloads);
    // The results of `decode` are in the order of the payloads that were converted.
    let open = refused.iter_mut().filter(|end| end.is_none());
    for (end, unreadable) in open.zip(&decoded.refused) {
        *end = unreadable.as_ref().map(End::unreadable);
    }
    let items = items.into_iter().zip(&decoded.refused);
    let items: Vec<_> = items
        .filter_map(|(item, unreadable)| unreadable.is_none().then_some(item))
        .collect();
    let ends = match items.is_empty() {
        true => Vec::new(),
        false => run(task, decoded.items, items, env).await,
    };
    let mut ends = ends.into_iter();
    refused
        .into_iter()
        .filter_map(|end| end.or_else(|| ends.next()))
        .collect()
}

/// Runs the handler, and returns the ends of the items in order.
async fn run(
    task: &'static TaskDefinition,
    decoded: Box<dyn DecodedItems>,
    items: Vec<BatchItem>,
    env: AttemptEnv,
) -> Vec<End> {
    let context = BatchContext {
        items,
        states: env.states,
    };
    // Catching a panic here keeps what is known of other items.
    let handler = caught(decoded.run(&context));
    let handler = noting(async {
        match handler.await {
            Ok(results) => ends_of(results, context.items.len()),
            Err(panic) => vec![End::panicked(&panic); context.items.len()],
        }
    });
    let Some(timeout) = task.timeout else {
        return handler.await;
    };
    let deadline = env.durable.clock.deadline(timeout);
    match deadline.bound(handler).await {
        Timed::InTime(ends) => ends,
        Timed::Late(ends) => ends.into_iter().map(|end| end.late(timeout)).collect(),
        Timed::Over => vec![End::timed_out(timeout); context.items.len()],
    }
}

fn ends_of(results: anyhow::Result<Vec<anyhow::Result<String>>>, items: usize) -> Vec<End> {
    match results {
        Ok(results) if results.len() == items => results.into_iter().map(End::of).collect(),
        Ok(results) => {
            let end = End::permanent(&format!(
                "the batch handler gave {} results for {items} items: it has to give one for each, \
                 in their order",
                results.len()
            ));
            vec![end; items]
        }
        Err(error) => vec![End::of(Err(error)); items],
    }
}
