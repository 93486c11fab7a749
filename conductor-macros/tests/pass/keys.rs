//! Every key.
use std::time::Duration;

use conductor::__private::{TaskDefinition, inventory};
use conductor::prelude::*;

mod reexport {
    pub mod deep {
        pub use conductor;
    }
}

#[task(
    name = "It's \"::any\" näme",
    queue = "two words",
    retry(max_attempts = 5, backoff = "15s..2h", jitter = 0.2),
    timeout = "5m",
    priority = -10,
    keep(completed = "0s", failed = "2 weeks"),
    marker = Everything,
    crate = "crate::keys::reexport::deep::conductor",
)]
async fn all(ctx: &TaskContext, id: u64) -> anyhow::Result<u64> {
    Ok(id)
}

#[task()]
async fn defaults(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(retry(backoff = "30s"), crate = "conductor")]
async fn constant(ctx: &TaskContext, id: u64) -> anyhow::Result<u64> {
    Ok(id)
}

fn definition(name: &str) -> &'static TaskDefinition {
    inventory::iter::<TaskDefinition>()
        .find(|task| task.name == name && task.place.file == file!())
        .unwrap()
}

#[test]
fn holds() {
    let all = definition(Everything::NAME);
    assert_eq!(all.name, "It's \"::any\" näme");
    assert_eq!(all.queue, "two words");
    assert_eq!(all.priority, -10);
    assert_eq!(all.retry.max_attempts, 5);
    assert_eq!(all.retry.backoff_initial, Duration::from_secs(15));
    assert_eq!(all.retry.backoff_max, Duration::from_secs(7200));
    assert_eq!(all.retry.jitter, 0.2);
    assert_eq!(all.timeout, Some(Duration::from_secs(300)));
    assert_eq!(all.keep.completed, Duration::ZERO);
    assert_eq!(all.keep.failed, Duration::from_secs(14 * 24 * 3600));

    let defaults = definition("defaults");
    assert_eq!(defaults.queue, "default");
    assert_eq!(defaults.timeout, None);
    assert_eq!(defaults.retry, Default::default());
    assert_eq!(defaults.keep, Default::default());

    let constant = definition("constant").retry;
    assert_eq!(constant.backoff_initial, Duration::from_secs(30));
    assert_eq!(constant.backoff_max, Duration::from_secs(30));
    assert_eq!(constant.max_attempts, 3);
}
