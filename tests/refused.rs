//! Tasks that no orchestrator may start with. They are in a registry of their own, as they would spoil every other.

use conductor::prelude::*;
use conductor::{Error, Orchestrator, Registry};
use sqlx::postgres::PgPoolOptions;

mod first {
    use conductor::prelude::*;

    #[task(name = "same", linked = false)]
    pub async fn one(_ctx: &TaskContext) -> anyhow::Result<()> {
        Ok(())
    }
}

mod second {
    use conductor::prelude::*;

    #[task(name = "same", linked = false)]
    pub async fn other(_ctx: &TaskContext) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Mailer;

#[task(linked = false)]
async fn sends(_ctx: &TaskContext, _mailer: State<Mailer>) -> anyhow::Result<()> {
    Ok(())
}

#[task(concurrency(limit = 2, key = payload.tenant_id), linked = false)]
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

#[task(event(Ordered), rate_limit("1/1s", key = payload.tenant), linked = false)]
async fn converts(_ctx: &TaskContext, payload: Job) -> anyhow::Result<i64> {
    Ok(payload.tenant)
}

#[task(on_insert("orders", row = Order), concurrency(limit = 1, key = payload.tenant), linked = false)]
async fn converts_rows(_ctx: &TaskContext, payload: Job) -> anyhow::Result<i64> {
    Ok(payload.tenant)
}

// The event itself, and a limit of the whole task, are fine.
#[task(event(Ordered), concurrency(limit = 1, key = payload.customer), linked = false)]
async fn takes_the_event(_ctx: &TaskContext, payload: Ordered) -> anyhow::Result<i64> {
    Ok(payload.customer)
}

#[task(event(Ordered), concurrency = 1, linked = false)]
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

fn registry() -> Registry {
    Registry::new()
        .task::<first::One>()
        .task::<second::Other>()
        .task::<Sends>()
        .task::<Renames>()
        .task::<Converts>()
        .task::<ConvertsRows>()
        .task::<TakesTheEvent>()
        .task::<ConvertsAsAWhole>()
        .event::<Ordered>()
}

fn unconnected() -> Conductor {
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost:1/none");
    Conductor::from_pool(pool.unwrap())
}

#[tokio::test]
async fn two_tasks_of_one_name_and_a_missing_state_are_refused_with_their_places() {
    let Err(Error::Refused(faults)) = Orchestrator::builder(unconnected())
        .tasks(registry())
        .build()
    else {
        panic!("not refused");
    };
    assert_eq!(faults.len(), 5, "{faults:?}");
    let fault = |what: &str| {
        let found = faults.iter().find(|fault| fault.contains(what));
        found.unwrap_or_else(|| panic!("{what}: {faults:?}"))
    };
    let clash = fault("two tasks");
    assert!(
        clash.contains("two tasks have the name \"same\""),
        "{clash}"
    );
    let places = lines_of("#[task(name = \"same\", linked = false)]");
    assert_eq!(places.len(), 2);
    for place in places {
        assert!(clash.contains(&place), "{clash} {place}");
    }
    let renamed = fault("`tenant_id` is written under another name");
    assert!(
        renamed.contains("the key `payload.tenant_id` of a limit is not in the payload's JSON"),
        "{renamed}"
    );
    let place =
        lines_of("#[task(concurrency(limit = 2, key = payload.tenant_id), linked = false)]");
    assert!(renamed.contains(&place[0]), "{renamed}");
    for (what, line) in [
        (
            "event \"refused.ordered\"",
            "#[task(event(Ordered), rate_limit(\"1/1s\", key = payload.tenant), linked = false)]",
        ),
        (
            "the insert in \"orders\"",
            "#[task(on_insert(\"orders\", row = Order), concurrency(limit = 1, key = payload.tenant), linked = false)]",
        ),
    ] {
        let limit = fault(what);
        assert!(limit.contains("`payload.tenant` of a limit"), "{limit}");
        assert!(limit.contains("Limit the task without a key"), "{limit}");
        assert!(limit.contains(&lines_of(line)[0]), "{limit}");
    }
    let need = fault("Mailer");
    assert!(need.contains("refused::Mailer>"), "{need}");
    assert!(
        need.contains(&lines_of("#[task(linked = false)]")[0]),
        "{need}"
    );
}

#[tokio::test]
async fn a_state_that_is_given_is_not_missed() {
    let built = Orchestrator::builder(unconnected())
        .tasks(registry())
        .state(Mailer)
        .build();
    let Err(Error::Refused(faults)) = built else {
        panic!("not refused");
    };
    // The clash and the limits.
    assert_eq!(faults.len(), 4, "{faults:?}");
}

#[tokio::test]
async fn each_orchestrator_has_its_own_tasks() {
    let alone = Registry::new().task::<first::One>().task::<first::One>();
    let built = Orchestrator::builder(unconnected())
        .tasks(alone.clone())
        .build();
    assert!(built.is_ok(), "{built:?}");
    assert_eq!(
        alone.tasks().map(|task| task.name).collect::<Vec<_>>(),
        ["same"]
    );
    let both = alone.task::<second::Other>();
    let built = Orchestrator::builder(unconnected()).tasks(both).build();
    let Err(Error::Refused(faults)) = built else {
        panic!("not refused");
    };
    assert_eq!(faults.len(), 1, "{faults:?}");
    // The linked tasks and events of this binary have neither.
    assert!(Registry::linked().get("same").is_none());
    assert!(Registry::linked().tasks().count() > 10);
    assert!(Orchestrator::builder(unconnected()).build().is_ok());
    // The event is linked, so its definition is known with its place in the source.
    let events = Registry::new().event::<Ordered>();
    let places: Vec<_> = events
        .events()
        .map(|event| event.place.to_string())
        .collect();
    assert_eq!(places, lines_of("#[event(name = \"refused.ordered\")]"));
}
