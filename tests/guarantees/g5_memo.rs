//! G5: a step whose record was committed never runs again, and its value comes back exactly.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use conductor::Status;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Values {
    zero: i64,
    least: i64,
    most: u64,
    no: bool,
    empty: String,
    odd: String,
    none: Option<String>,
    floats: Vec<f64>,
    list: Vec<u8>,
    unit: (),
}

fn values() -> Values {
    Values {
        zero: 0,
        least: i64::MIN,
        most: u64::MAX,
        no: false,
        empty: String::new(),
        odd: "\u{1}\u{7f}\u{ffff}\"\\ü🦀".to_owned(),
        none: None,
        floats: vec![0.1 + 0.2, -0.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e23],
        list: Vec::new(),
        unit: (),
    }
}

static RUNS: AtomicUsize = AtomicUsize::new(0);
static BODIES: AtomicUsize = AtomicUsize::new(0);

/// What a step gives in the first run and never again.
async fn once<T>(first: bool, value: T) -> anyhow::Result<T> {
    BODIES.fetch_add(1, SeqCst);
    anyhow::ensure!(first, "a recorded step ran again");
    Ok(value)
}

#[task(name = "g5.exact")]
async fn g5_exact(ctx: &TaskContext) -> anyhow::Result<Values> {
    let first = RUNS.fetch_add(1, SeqCst) == 0;
    let zero: i64 = ctx.step("zero", || once(first, 0)).await?;
    let no: bool = ctx.step("false", || once(first, false)).await?;
    let empty: String = ctx.step("empty", || once(first, String::new())).await?;
    let none: Option<String> = ctx.step("null", || once(first, None)).await?;
    let minus: f64 = ctx.step("-0.0", || once(first, -0.0)).await?;
    let unit: () = ctx.step("unit", || once(first, ())).await?;
    let all: Values = ctx.step("all", || once(first, values())).await?;
    ctx.sleep("a day", DAY).await?;
    assert_eq!(
        (zero, no, empty.as_str(), none, unit),
        (0, false, "", None, ())
    );
    assert!(minus == 0.0 && minus.is_sign_negative());
    assert!(all.floats[1].is_sign_negative());
    Ok(all)
}

#[conductor::test]
async fn values_come_back_exactly(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G5Exact>(()).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    test.advance(DAY).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, values());
    assert_eq!(BODIES.load(SeqCst), 7);
    Ok(())
}

static CHARGES: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g5.failing", retry(max_attempts = 5, backoff = "1s..1s"))]
async fn g5_failing(ctx: &TaskContext) -> anyhow::Result<(usize, u32)> {
    let charged = ctx
        .step("charge", || async {
            anyhow::Ok(CHARGES.fetch_add(1, SeqCst))
        })
        .await?;
    ctx.sleep("pause", DAY).await?;
    anyhow::ensure!(ctx.attempt() > 3, "not yet");
    ctx.sleep("pause again", DAY).await?;
    Ok((charged, ctx.attempt()))
}

#[conductor::test]
async fn a_step_runs_once_over_failures_and_suspensions(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G5Failing>(()).await?;
    for _ in 0..8 {
        test.drain().await?;
        test.advance(DAY).await?;
    }
    assert_eq!(run.result().await?, (0, 4));
    assert_eq!(CHARGES.load(SeqCst), 1);
    Ok(())
}

static TRIES: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g5.erring", retry(max_attempts = 3, backoff = "1s..1s"))]
async fn g5_erring(ctx: &TaskContext) -> anyhow::Result<usize> {
    ctx.step("try", || async {
        let tries = TRIES.fetch_add(1, SeqCst);
        anyhow::ensure!(tries == 2, "not yet");
        Ok(tries)
    })
    .await
}

#[conductor::test]
async fn a_step_that_errs_is_not_recorded(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G5Erring>(()).await?;
    for _ in 0..3 {
        test.drain().await?;
        test.advance(Duration::from_secs(2)).await?;
    }
    assert_eq!(run.result().await?, 2);
    Ok(())
}

static REPEATED: AtomicUsize = AtomicUsize::new(0);

#[task(name = "g5.repeated", retry(max_attempts = 1))]
async fn g5_repeated(ctx: &TaskContext) -> anyhow::Result<(usize, String)> {
    let nth = ctx
        .step("count", || async {
            anyhow::Ok(REPEATED.fetch_add(1, SeqCst))
        })
        .await?;
    let key = ctx.idempotency_key("count");
    if ctx.step("fail", || async { anyhow::Ok(()) }).await.is_ok() && FAIL.swap(0, SeqCst) == 1 {
        anyhow::bail!("this once: {key}");
    }
    Ok((nth, key))
}

static FAIL: AtomicUsize = AtomicUsize::new(1);

#[conductor::test]
async fn a_repeat_keeps_the_steps_and_the_idempotency_keys(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G5Repeated>(()).await?;
    test.drain().await?;
    let failed = run.result().await.unwrap_err().to_string();
    let again = test.retry(run.id()).await?.unwrap();
    test.drain().await?;
    let (nth, key) = test.execution::<G5Repeated>(again).result().await?;
    assert_eq!(nth, 0);
    assert!(failed.contains(&key) && key.contains(&run.id().to_string()));
    Ok(())
}

#[task(name = "g5.joined")]
async fn g5_joined(ctx: &TaskContext, n: usize) -> anyhow::Result<usize> {
    let (a, b) = tokio::try_join!(
        ctx.step("a", || async { anyhow::Ok(n) }),
        ctx.step("b", || async { anyhow::Ok(n * 2) }),
    )?;
    let timed_out = ctx
        .step("slow", std::future::pending::<anyhow::Result<()>>)
        .timeout(Duration::from_millis(1))
        .await;
    assert!(timed_out.is_err_and(|error| error.to_string().contains("slow")));
    Ok(a + b)
}

#[conductor::test]
async fn steps_of_many_executions_run_side_by_side(test: TestConductor) -> anyhow::Result<()> {
    let payloads = (0..300).map(|n| G5Joined { n });
    let ids = test.invoke_batch::<G5Joined>(payloads).await?;
    test.drain().await?;
    for (n, id) in ids.into_iter().enumerate() {
        assert_eq!(test.execution::<G5Joined>(id).result().await?, n * 3);
    }
    Ok(())
}

#[conductor::test]
async fn a_context_without_a_database_runs_steps() -> anyhow::Result<()> {
    assert_eq!(g5_joined(&conductor::testing::context(), 5).await?, 15);
    let ctx = conductor::testing::context();
    let refused = ctx.sleep("a day", DAY).await.unwrap_err().to_string();
    assert!(refused.contains("no database"), "{refused}");
    assert!(ctx.cancel(ctx.execution_id()).await.is_err());
    Ok(())
}
