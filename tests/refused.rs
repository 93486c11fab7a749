//! Tasks that no program may start with; a binary of its own, as they would spoil every other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use conductor::prelude::*;
use conductor::{Error, Orchestrator};
use sqlx::postgres::PgPoolOptions;

mod first {
    use conductor::prelude::*;

    #[task(name = "same")]
    async fn one(_ctx: &TaskContext) -> anyhow::Result<()> {
        Ok(())
    }
}

mod second {
    use conductor::prelude::*;

    #[task(name = "same")]
    async fn other(_ctx: &TaskContext) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Mailer;

#[task]
async fn sends(_ctx: &TaskContext, _mailer: State<Mailer>) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 2, key = payload.tenant_id))]
async fn renames(
    _ctx: &TaskContext,
    #[serde(rename = "tenantId")] tenant_id: i64,
) -> anyhow::Result<i64> {
    Ok(tenant_id)
}

#[event(name = "refused.ordered")]
struct Ordered {
    customer: i64,
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Order {
    id: i64,
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Job {
    tenant: i64,
}

impl From<Ordered> for Job {
    fn from(event: Ordered) -> Self {
        Self {
            tenant: event.customer,
        }
    }
}

impl From<RowChange<Order>> for Job {
    fn from(_: RowChange<Order>) -> Self {
        Self { tenant: 0 }
    }
}

#[task(event(Ordered), rate_limit("1/1s", key = payload.tenant))]
async fn converts(_ctx: &TaskContext, payload: Job) -> anyhow::Result<i64> {
    Ok(payload.tenant)
}

#[task(on_insert("orders", row = Order), concurrency(limit = 1, key = payload.tenant))]
async fn converts_rows(_ctx: &TaskContext, payload: Job) -> anyhow::Result<i64> {
    Ok(payload.tenant)
}

// The event itself, and a limit of the whole task, are fine.
#[task(event(Ordered), concurrency(limit = 1, key = payload.customer))]
async fn takes_the_event(_ctx: &TaskContext, payload: Ordered) -> anyhow::Result<i64> {
    Ok(payload.customer)
}

#[task(event(Ordered), concurrency = 1)]
async fn converts_as_a_whole(_ctx: &TaskContext, payload: Job) -> anyhow::Result<i64> {
    Ok(payload.tenant)
}

fn lines_of(text: &str) -> Vec<String> {
    include_str!("refused.rs")
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.trim() == text)
        .map(|(_, number)| format!("{}:{number}", file!()))
        .collect()
}

fn unconnected() -> Conductor {
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost:1/none");
    Conductor::from_pool(pool.unwrap())
}

#[tokio::test]
async fn two_tasks_of_one_name_and_a_missing_state_are_refused_with_their_places() {
    let Err(Error::Refused(faults)) = Orchestrator::builder(unconnected()).build() else {
        panic!("not refused");
    };
    assert_eq!(faults.len(), 5, "{faults:?}");
    // Their order is the linker's.
    let fault = |what: &str| {
        let found = faults.iter().find(|fault| fault.contains(what));
        found.unwrap_or_else(|| panic!("{what}: {faults:?}"))
    };
    let clash = fault("two tasks");
    assert!(
        clash.contains("two tasks have the name \"same\""),
        "{clash}"
    );
    let places = lines_of("#[task(name = \"same\")]");
    assert_eq!(places.len(), 2);
    for place in places {
        assert!(clash.contains(&place), "{clash} {place}");
    }
    let renamed = fault("`tenant_id` is written under another name");
    assert!(
        renamed.contains("the key `payload.tenant_id` of a limit is not in the payload's JSON"),
        "{renamed}"
    );
    let place = lines_of("#[task(concurrency(limit = 2, key = payload.tenant_id))]");
    assert!(renamed.contains(&place[0]), "{renamed}");
    for (what, line) in [
        (
            "event \"refused.ordered\"",
            "#[task(event(Ordered), rate_limit(\"1/1s\", key = payload.tenant))]",
        ),
        (
            "the insert in \"orders\"",
            "#[task(on_insert(\"orders\", row = Order), concurrency(limit = 1, key = payload.tenant))]",
        ),
    ] {
        let limit = fault(what);
        assert!(limit.contains("`payload.tenant` of a limit"), "{limit}");
        assert!(limit.contains("Limit the task without a key"), "{limit}");
        assert!(limit.contains(&lines_of(line)[0]), "{limit}");
    }
    let need = fault("Mailer");
    assert!(need.contains("State<refused::Mailer>"), "{need}");
    assert!(need.contains(&lines_of("#[task]")[0]), "{need}");
}

#[tokio::test]
async fn a_state_that_is_given_is_not_missed() {
    let built = Orchestrator::builder(unconnected()).state(Mailer).build();
    let Err(Error::Refused(faults)) = built else {
        panic!("not refused");
    };
    // The clash and the limits.
    assert_eq!(faults.len(), 4, "{faults:?}");
}
