//! Limits, of the whole task and by keys.
use std::time::Duration;

use conductor::__private::{TaskDefinition, inventory};
use conductor::prelude::*;
use conductor::{LimitDefinition, LimitKind};

#[task(concurrency = 5)]
async fn whole(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit = "10/s")]
async fn rated(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit("100/1m", burst = 20))]
async fn bursts(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(rate_limit("100/1m", key = payload.tenant_id, burst = 100))]
async fn bursts_by_key(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

// The fields form: the payload is the generated struct.
#[task(
    concurrency(limit = 20),
    concurrency(limit = 2, key = payload.tenant_id),
    rate_limit = "100/1m",
    rate_limit("1/1h 30m", key = payload.r#type),
)]
async fn fields(ctx: &TaskContext, tenant_id: i64, r#type: String) -> anyhow::Result<()> {
    Ok(())
}

mod orders {
    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    pub struct Order {
        pub customer: Customer,
    }

    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    pub struct Customer {
        pub id: i64,
        // A key need not be a number or a text, nor be copied.
        pub regions: Vec<String>,
    }
}

#[task(concurrency(limit = 1, key = payload.customer.id), concurrency(limit = 3, key = (payload.customer).regions))]
async fn ship(ctx: &TaskContext, payload: orders::Order) -> anyhow::Result<()> {
    Ok(())
}

// An argument that is called as the check's own variable.
#[task(concurrency(limit = 1, key = payload.of), marker = Ignored)]
async fn ignores(ctx: &TaskContext, _payload: Of) -> anyhow::Result<()> {
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Of {
    of: u8,
}

// Shared with other tasks, and in order by a field of an optional one.
#[task(
    concurrency(limit = 5, name = "stripe", key = payload.tenant_id),
    rate_limit("10/s", name = "stripe"),
    ordered_by = payload.tenant_id,
)]
async fn shares(ctx: &TaskContext, tenant_id: i64) -> anyhow::Result<()> {
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Moved {
    to: Option<orders::Customer>,
}

#[task(ordered_by = payload.to?.id, concurrency(limit = 5, key = payload.to?.regions))]
async fn follows(ctx: &TaskContext, payload: Moved) -> anyhow::Result<()> {
    Ok(())
}

fn task(name: &str) -> &'static TaskDefinition {
    inventory::iter::<TaskDefinition>()
        .find(|task| task.name == name && task.place.file == file!())
        .unwrap()
}

fn limits(name: &str) -> &'static [LimitDefinition] {
    task(name).limits
}

#[test]
fn holds() {
    assert_eq!(limits("whole"), [LimitDefinition::concurrency(5)]);
    assert_eq!(limits("rated"), [LimitDefinition::rate(10, 1000)]);
    let all = limits("fields");
    assert_eq!(all.len(), 4);
    for limit in [
        LimitDefinition::concurrency(20),
        LimitDefinition::concurrency(2).key(&["tenant_id"]),
        LimitDefinition::rate(100, 60_000),
        LimitDefinition::rate(1, 5_400_000).key(&["type"]),
    ] {
        assert!(all.contains(&limit), "{limit:?}");
    }
    assert_eq!(limits("ship")[0].path, ["customer", "id"]);
    assert_eq!(limits("ship")[1].path, ["customer", "regions"]);
    assert_eq!(limits("ignores")[0].path, ["of"]);
    let per = Duration::from_millis(1000);
    assert_eq!(limits("rated")[0].kind, LimitKind::Rate { per, burst: 1 });
    assert_eq!(
        limits("bursts"),
        [LimitDefinition::rate(100, 60_000).burst(20)]
    );
    assert_eq!(
        limits("bursts_by_key"),
        [LimitDefinition::rate(100, 60_000)
            .burst(100)
            .key(&["tenant_id"])]
    );
    assert_eq!(
        limits("shares"),
        [
            LimitDefinition::concurrency(5)
                .key(&["tenant_id"])
                .shared("stripe"),
            LimitDefinition::rate(10, 1000).shared("stripe"),
        ]
    );
    assert_eq!(task("shares").ordered_by, ["tenant_id"]);
    assert_eq!(task("follows").ordered_by, ["to", "id"]);
    assert_eq!(limits("follows")[0].path, ["to", "regions"]);
    assert!(task("rated").ordered_by.is_empty());
}
