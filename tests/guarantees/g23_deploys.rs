//! G23: what this build cannot read waits for one that can, and is charged with nothing.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conductor::check::Finding;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Conductor, Execution, Status};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::support::{count, eventually, info, left, number, orchestrators, run_sql, soon};

/// Whether this process is of the newer build, by the test that asks. What the newer build has written, it can
/// read: so it is the newer one whenever something is invoked, emitted or returned.
static NEWER: [AtomicBool; 16] = [const { AtomicBool::new(false) }; 16];

/// What a process of its own is told: its build and the database.
const SETTINGS: &str = "CONDUCTOR_TEST_G23";

/// A value that the older build knows as a number only, and the newer one as a text too.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
struct Known<const TEST: usize>(Value);

impl<'de, const TEST: usize> Deserialize<'de> for Known<TEST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_number() || value.is_string() && NEWER[TEST].load(Ordering::SeqCst) {
            Ok(Self(value))
        } else {
            Err(D::Error::custom(format!("{value} is no number")))
        }
    }
}

impl<const TEST: usize> JsonSchema for Known<TEST> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Known".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        true.into()
    }
}

fn known<const TEST: usize>(value: &str) -> Known<TEST> {
    Known(json!(value))
}

fn deploy<const TEST: usize>(newer: bool) {
    NEWER[TEST].store(newer, Ordering::SeqCst);
}

/// A test that fails is not to wait for ever.
async fn output<T: Task>(run: &Execution<T>) -> anyhow::Result<T::Output> {
    Ok(soon("its end", run.result()).await?)
}

#[task(name = "g23-payload", retry(max_attempts = 1))]
async fn g23_payload(ctx: &TaskContext, order: Known<0>) -> anyhow::Result<(u32, Value)> {
    Ok((ctx.attempt(), order.0))
}

#[conductor::test]
async fn a_payload_waits_for_a_build_that_can_read_it(test: TestConductor) -> anyhow::Result<()> {
    let payload = |value: &str| G23Payload {
        order: known(value),
    };
    deploy::<0>(true);
    let one = test.invoke::<G23Payload>(payload("two")).await?;
    let many = test
        .invoke_batch::<G23Payload>((0..20).map(|_| payload("more")))
        .await?;
    deploy::<0>(false);
    for _ in 0..3 {
        test.drain().await?;
        test.advance(Duration::from_secs(5)).await?;
    }
    let text = left(&test, one.id()).await?;
    for part in ["its payload", "order", "\"two\" is no number", "invoked at"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!(count(&test, "state = 'pending'").await?, 21);
    let listed = test.list(&conductor::Filter::default()).await?;
    assert!(listed.iter().all(|info| info.unreadable.is_some()));
    let findings = test.check().await?.findings;
    let words = "21 executions with a payload that it cannot read";
    let told = findings
        .iter()
        .find(|finding| finding.to_string().contains(words));
    assert!(
        told.is_some_and(|told| told.to_string().contains("order: ")),
        "{findings:?}"
    );

    deploy::<0>(true);
    test.drain().await?;
    assert_eq!(output(&one).await?, (1, json!("two")));
    for id in many {
        assert_eq!(info(&test, id).await?.state, Status::Completed);
    }
    Ok(())
}

#[task(name = "g23-older", retry(max_attempts = 1))]
async fn g23_older(_ctx: &TaskContext, n: u32, order: Known<1>) -> anyhow::Result<u32> {
    let _ = order;
    Ok(n)
}

#[conductor::test]
async fn it_can_be_cancelled_and_disturbs_no_other(test: TestConductor) -> anyhow::Result<()> {
    deploy::<1>(true);
    let bad = test
        .invoke::<G23Older>(G23Older {
            n: 1,
            order: known("two"),
        })
        .await?;
    let good = test
        .invoke::<G23Older>(G23Older {
            n: 2,
            order: Known(json!(2)),
        })
        .await?;
    deploy::<1>(false);
    test.drain().await?;
    assert_eq!(output(&good).await?, 2);
    left(&test, bad.id()).await?;
    test.retry(bad.id()).await?;
    test.drain().await?;
    left(&test, bad.id()).await?;
    test.cancel(bad.id()).reason("no longer wanted").await?;
    assert_eq!(info(&test, bad.id()).await?.state, Status::Cancelled);
    // Nothing is left of it but what every execution leaves.
    run_sql(
        &test,
        "update conductor.unreadable set noted_at = noted_at - interval '1 day'",
    )
    .await?;
    run_sql(&test, "select conductor.prune(100)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.unreadable").await,
        0
    );
    Ok(())
}

/// Hides every error: what cannot be read is not for the handler to judge.
fn hidden<T>(result: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    Ok(result.ok())
}

#[task(name = "g23-step", retry(max_attempts = 1))]
async fn g23_step(ctx: &TaskContext) -> anyhow::Result<Option<Value>> {
    let step = ctx
        .step("price", || async { anyhow::Ok(known::<2>("two")) })
        .await;
    let price = hidden(step)?;
    ctx.sleep("a while", Duration::from_secs(600)).await?;
    Ok(price.map(|price| price.0))
}

#[task(name = "g23-transaction", retry(max_attempts = 1))]
async fn g23_transaction(ctx: &TaskContext) -> anyhow::Result<Option<Value>> {
    let written = ctx
        .transaction("price", async |_| anyhow::Ok(known::<2>("two")))
        .await;
    let price = hidden(written)?;
    ctx.sleep("a while", Duration::from_secs(600)).await?;
    Ok(price.map(|price| price.0))
}

/// The newer build has a branch more.
#[task(name = "g23-race", retry(max_attempts = 1))]
async fn g23_race(ctx: &TaskContext) -> anyhow::Result<Option<Value>> {
    let mut race = ctx
        .race("first")
        .branch(async { std::future::pending::<anyhow::Result<&str>>().await });
    if NEWER[2].load(Ordering::SeqCst) {
        race = race.branch(async { anyhow::Ok("second") });
    }
    let won = hidden(race.await)?;
    ctx.sleep("a while", Duration::from_secs(600)).await?;
    Ok(won.map(|_| json!("two")))
}

/// The step that cannot be read is said in the body of another one from its second run on.
#[task(name = "g23-nested", retry(max_attempts = 1))]
async fn g23_nested(ctx: &TaskContext) -> anyhow::Result<Option<Value>> {
    if info_of(ctx).await? == 1 {
        ctx.step("price", || async { anyhow::Ok(known::<2>("two")) })
            .await?;
        ctx.sleep("a while", Duration::from_secs(600)).await?;
    }
    let outer = ctx.step("outer", || async {
        let inner = ctx.step("price", || async { anyhow::Ok(known::<2>("two")) });
        anyhow::Ok(inner.await?.0)
    });
    outer.await.map(Some)
}

async fn info_of(ctx: &TaskContext) -> anyhow::Result<i32> {
    let conductor: &Conductor = ctx.state::<Conductor>();
    Ok(conductor
        .find(ctx.execution_id())
        .await?
        .map_or(0, |info| info.claim))
}

#[conductor::test]
async fn recorded_values_wait_for_a_build_that_can_read_them(
    test: TestConductor,
) -> anyhow::Result<()> {
    let client: Conductor = (*test).clone();
    let test = test.state(client);
    deploy::<2>(true);
    let runs = [
        (test.invoke::<G23Step>(()).await?.id(), "step \"price\""),
        (
            test.invoke::<G23Transaction>(()).await?.id(),
            "transaction \"price\"",
        ),
        (test.invoke::<G23Race>(()).await?.id(), "race \"first\""),
        (test.invoke::<G23Nested>(()).await?.id(), "step \"price\""),
    ];
    test.drain().await?;
    assert_eq!(count(&test, "state = 'suspended'").await?, 4);
    deploy::<2>(false);
    test.advance(Duration::from_secs(600)).await?;
    test.drain().await?;
    for (id, what) in runs {
        let text = left(&test, id).await?;
        assert!(text.contains(what), "{what:?} in {text}");
    }
    // What the values of steps are, only the running handler knows; a check tells what is left.
    let findings = test.check().await?.findings;
    let told = findings.iter().filter(|finding| {
        finding.is_change() && matches!(finding, Finding::Left { executions: 1, .. })
    });
    assert_eq!(told.count(), 4, "{findings:?}");
    deploy::<2>(true);
    test.drain().await?;
    for (id, what) in runs {
        let info = info(&test, id).await?;
        assert_eq!(
            (info.state, info.failures),
            (Status::Completed, 0),
            "{what}"
        );
        assert_eq!(info.output.unwrap().get(), "\"two\"", "{what}");
    }
    Ok(())
}

/// Of the newer build.
#[task(name = "g23-child")]
async fn g23_child(_ctx: &TaskContext) -> anyhow::Result<Value> {
    Ok(json!("two"))
}

/// The same task, as its parent knows it.
struct KnownChild;

impl Task for KnownChild {
    type Payload = ();
    type Output = Known<3>;
    const NAME: &'static str = G23Child::NAME;
}

#[task(name = "g23-parent", retry(max_attempts = 1))]
async fn g23_parent(ctx: &TaskContext, all: bool) -> anyhow::Result<Vec<Value>> {
    let outputs = match all {
        true => ctx.invoke_all::<KnownChild>("children", [(), ()]).await,
        false => ctx
            .invoke::<KnownChild>("child", ())
            .await
            .map(|one| vec![one]),
    };
    let outputs = hidden(outputs.map_err(Into::into))?.unwrap_or_default();
    Ok(outputs.into_iter().map(|output| output.0).collect())
}

#[conductor::test]
async fn a_childs_result_waits_for_a_build_that_can_read_it(
    test: TestConductor,
) -> anyhow::Result<()> {
    let one = test.invoke::<G23Parent>(G23Parent { all: false }).await?;
    let all = test.invoke::<G23Parent>(G23Parent { all: true }).await?;
    test.drain().await?;
    for id in [one.id(), all.id()] {
        let text = left(&test, id).await?;
        assert!(
            text.contains("the output of its child") && text.contains("g23-child"),
            "{text}"
        );
    }
    deploy::<3>(true);
    test.drain().await?;
    assert_eq!(output(&one).await?, [json!("two")]);
    assert_eq!(output(&all).await?, [json!("two"), json!("two")]);
    Ok(())
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct G23Happened {
    what: Known<4>,
}

impl Event for G23Happened {
    const NAME: &'static str = "g23-happened";
}

#[task(name = "g23-listener", retry(max_attempts = 1))]
async fn g23_listener(ctx: &TaskContext) -> anyhow::Result<Option<Value>> {
    let came = ctx.wait_for_event::<G23Happened>("news").await;
    Ok(hidden(came.map_err(Into::into))?.map(|event| event.what.0))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Started {
    what: Value,
}

impl From<G23Happened> for Started {
    fn from(event: G23Happened) -> Self {
        Self { what: event.what.0 }
    }
}

#[task(name = "g23-started", retry(max_attempts = 1), event(G23Happened))]
async fn g23_started(_ctx: &TaskContext, payload: Started) -> anyhow::Result<Value> {
    Ok(payload.what)
}

#[conductor::test]
async fn an_event_waits_for_a_build_that_can_read_it(test: TestConductor) -> anyhow::Result<()> {
    let listener = test.invoke::<G23Listener>(()).await?;
    test.drain().await?;
    deploy::<4>(true);
    test.emit(G23Happened { what: known("two") }).await?;
    deploy::<4>(false);
    test.drain().await?;
    let started = number(
        &test,
        "select count(*) from conductor.live where task = 'g23-started'",
    );
    assert_eq!(started.await, 1);
    let text = left(&test, listener.id()).await?;
    for part in ["the event \"g23-happened\"", "\"news\"", "what"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!(count(&test, "state = 'pending' and failures = 0").await?, 2);
    deploy::<4>(true);
    test.drain().await?;
    assert_eq!(output(&listener).await?, Some(json!("two")));
    assert_eq!(count(&test, "state = 'completed'").await?, 2);
    Ok(())
}

#[task(
    name = "g23-batch",
    batch(max_size = 10, max_wait = "50ms"),
    retry(max_attempts = 1)
)]
async fn g23_batch(_ctx: &BatchContext, items: Vec<Known<5>>) -> anyhow::Result<Vec<usize>> {
    Ok(items.iter().map(|_| items.len()).collect())
}

#[conductor::test]
async fn an_item_of_a_batch_waits_alone(test: TestConductor) -> anyhow::Result<()> {
    deploy::<5>(true);
    let good = test
        .invoke_batch::<G23Batch>((0..3).map(|n| Known(json!(n))))
        .await?;
    let bad = test.invoke::<G23Batch>(known("two")).await?;
    deploy::<5>(false);
    test.drain().await?;
    for id in good {
        assert_eq!(info(&test, id).await?.state, Status::Completed);
    }
    left(&test, bad.id()).await?;
    deploy::<5>(true);
    test.drain().await?;
    assert_eq!(output(&bad).await?, 1);
    Ok(())
}

#[task(name = "g23-limited", concurrency(limit = 1), retry(max_attempts = 1))]
async fn g23_limited(_ctx: &TaskContext, order: Known<6>) -> anyhow::Result<Value> {
    Ok(order.0)
}

#[conductor::test]
async fn it_keeps_no_slot_of_a_limit(test: TestConductor) -> anyhow::Result<()> {
    let limited = |value: Value| G23Limited {
        order: Known(value),
    };
    let mut bad = Vec::new();
    let mut good = Vec::new();
    deploy::<6>(true);
    for n in 0..5 {
        bad.push(test.invoke::<G23Limited>(limited(json!("two"))).await?);
        good.push(test.invoke::<G23Limited>(limited(json!(n))).await?);
    }
    deploy::<6>(false);
    test.drain().await?;
    for (n, run) in good.into_iter().enumerate() {
        assert_eq!(output(&run).await?, json!(n));
    }
    for run in &bad {
        left(&test, run.id()).await?;
    }
    deploy::<6>(true);
    test.drain().await?;
    for run in bad {
        assert_eq!(output(&run).await?, json!("two"));
    }
    Ok(())
}

#[task(name = "g23-rolling", retry(max_attempts = 1))]
async fn g23_rolling(_ctx: &TaskContext, order: Known<7>) -> anyhow::Result<u32> {
    let _ = order;
    Ok(std::process::id())
}

/// A process of one of the builds; killed with this value.
struct Process(Child);

impl Process {
    fn start(build: &str, test: &TestConductor) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "guarantees::g23_deploys::a_process",
                "--nocapture",
            ])
            .env(SETTINGS, format!("{build} {}", test.url()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// All that it has said.
    fn end(mut self) -> anyhow::Result<String> {
        use std::io::Read;
        self.0.kill()?;
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said)?;
        self.0.wait()?;
        Ok(said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process itself; does nothing in the suite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() -> anyhow::Result<()> {
    let Ok(settings) = std::env::var(SETTINGS) else {
        return Ok(());
    };
    let Some((build, url)) = settings.split_once(' ') else {
        anyhow::bail!("malformed settings");
    };
    deploy::<7>(build == "newer");
    tracing_subscriber::fmt().with_ansi(false).init();
    let conductor = Conductor::open_url(url).await?;
    Orchestrator::builder(conductor.clone())
        .state(conductor)
        .build()?
        .run()
        .await?;
    Ok(())
}

#[conductor::test]
async fn in_a_rolling_deploy_each_build_does_what_it_can(
    test: TestConductor,
) -> anyhow::Result<()> {
    let rolling = |value: Value| G23Rolling {
        order: Known(value),
    };
    deploy::<7>(true);
    let older = Process::start("older", &test)?;
    let working = |processes| {
        let test = &test;
        eventually("the processes", move || async move {
            orchestrators(test).await.unwrap() == processes
        })
    };
    working(1).await;
    let waiting = test.invoke::<G23Rolling>(rolling(json!("two"))).await?;
    eventually("it is left", || async {
        number(&test, "select count(*) from conductor.unreadable").await == 1
    })
    .await;
    left(&test, waiting.id()).await?;
    // The newer one takes what was left when it starts, and what the older one leaves beside it.
    let newer = Process::start("newer", &test)?;
    let by = newer.0.id();
    assert_eq!(output(&waiting).await?, by);
    let mut runs = Vec::new();
    for n in 0..20 {
        runs.push(test.invoke::<G23Rolling>(rolling(json!(n))).await?);
        runs.push(test.invoke::<G23Rolling>(rolling(json!("two"))).await?);
    }
    for (n, run) in runs.into_iter().enumerate() {
        let process = output(&run).await?;
        assert!(n % 2 == 0 || process == by);
        let info = info(&test, run.id()).await?;
        assert_eq!((info.failures, info.crashes), (0, 0));
    }
    drop(newer);
    // Once a task, not once an execution.
    let said = older.end()?;
    let lines = said.lines().filter(|line| line.contains("cannot read"));
    assert_eq!(lines.count(), 1, "{said}");
    Ok(())
}
