//! What may be said of a step: its own tries, its own time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{Gate, info, soon};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Default)]
struct Tries(Arc<AtomicUsize>);

impl Tries {
    fn next(&self) -> usize {
        self.0.fetch_add(1, SeqCst) + 1
    }
}

fn quick(attempts: u32) -> RetryPolicy {
    RetryPolicy::attempts(attempts).backoff(Duration::from_millis(1), Duration::from_millis(4))
}

#[task(name = "step_options.flaky", retry(max_attempts = 1))]
async fn step_options_flaky(ctx: &TaskContext, good: usize, often: u32) -> anyhow::Result<String> {
    let (tries, word) = (ctx.state::<Tries>(), String::from("try"));
    ctx.retry_step("flaky", quick(often), || async {
        let n = tries.next();
        anyhow::ensure!(n >= good, "try {n} is no good");
        Ok(format!("{word} {n}"))
    })
    .await
}

#[conductor::test]
async fn a_step_is_tried_as_often_as_it_says(test: TestConductor) -> anyhow::Result<()> {
    let tries = Tries::default();
    let test = test.state(tries.clone());
    let good = test
        .invoke::<StepOptionsFlaky>(StepOptionsFlaky { good: 4, often: 4 })
        .await?;
    test.drain().await?;
    assert_eq!(good.result().await?, "try 4");
    let bad = test
        .invoke::<StepOptionsFlaky>(StepOptionsFlaky { good: 99, often: 3 })
        .await?;
    test.drain().await?;
    let error = bad.result().await.unwrap_err().to_string();
    assert!(error.contains("try 7 is no good"), "{error}");
    assert_eq!(tries.0.load(SeqCst), 7);
    // The tries of a step are no attempts of the execution.
    assert_eq!(info(&test, good.id()).await?.failures, 0);
    Ok(())
}

#[task(name = "step_options.judged", retry(max_attempts = 1))]
async fn step_options_judged(ctx: &TaskContext, permanent: bool) -> anyhow::Result<usize> {
    let tries = ctx.state::<Tries>();
    ctx.retry_step("judged", quick(5), || async {
        match tries.next() {
            1 if permanent => Err(anyhow::anyhow!("never")).permanent(),
            1 => Err(anyhow::anyhow!("later")).retry_after(HOUR),
            n => Ok(n),
        }
    })
    .await
}

#[conductor::test]
async fn the_verdict_of_an_error_counts_for_a_step_too(test: TestConductor) -> anyhow::Result<()> {
    let tries = Tries::default();
    let test = test.state(tries.clone());
    let run = test
        .invoke::<StepOptionsJudged>(StepOptionsJudged { permanent: true })
        .await?;
    test.drain().await?;
    assert!(run.result().await.is_err());
    assert_eq!(tries.0.swap(0, SeqCst), 1);

    let worker = test.orchestrator().build()?.start().await?;
    let run = test
        .invoke::<StepOptionsJudged>(StepOptionsJudged { permanent: false })
        .await?;
    crate::support::eventually("the first try", || async { tries.0.load(SeqCst) == 1 }).await;
    test.advance(HOUR).await?;
    assert_eq!(soon("the second try", run.result()).await?, 2);
    worker.stop().await?;
    Ok(())
}

#[task(name = "step_options.slow", retry(max_attempts = 1))]
async fn step_options_slow(ctx: &TaskContext) -> anyhow::Result<usize> {
    let (tries, gate) = (ctx.state::<Tries>(), ctx.state::<Arc<Gate>>());
    ctx.retry_step("slow", quick(2), || async {
        let n = tries.next();
        if n == 1 {
            gate.pass().await;
        }
        anyhow::Ok(n)
    })
    .timeout(HOUR)
    .await
}

#[conductor::test]
async fn each_try_has_its_time_by_the_virtual_clock(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let test = test.state(Tries::default()).state(Arc::clone(&gate));
    let worker = test.orchestrator().build()?.start().await?;
    let run = test.invoke::<StepOptionsSlow>(()).await?;
    gate.entered(1).await;
    test.advance(HOUR).await?;
    assert_eq!(soon("the second try", run.result()).await?, 2);
    worker.stop().await?;
    Ok(())
}

#[task(name = "step_options.patient", retry(max_attempts = 1))]
async fn step_options_patient(ctx: &TaskContext) -> anyhow::Result<()> {
    let tries = ctx.state::<Tries>();
    ctx.retry_step(
        "patient",
        RetryPolicy::attempts(9).backoff(HOUR, HOUR),
        || async {
            tries.next();
            anyhow::Result::<()>::Err(anyhow::anyhow!("not yet"))
        },
    )
    .await
}

#[conductor::test]
async fn a_cancel_or_a_shutdown_does_not_wait_for_the_next_try(
    test: TestConductor,
) -> anyhow::Result<()> {
    let tries = Tries::default();
    let test = test.state(tries.clone());
    let worker = test.orchestrator().build()?.start().await?;
    let cancelled = test.invoke::<StepOptionsPatient>(()).await?;
    let released = test.invoke::<StepOptionsPatient>(()).await?;
    crate::support::eventually("both tries", || async { tries.0.load(SeqCst) == 2 }).await;
    test.cancel(cancelled.id()).await?;
    let error = soon("the cancel", cancelled.result()).await.unwrap_err();
    assert!(
        matches!(error, conductor::Error::Cancelled { .. }),
        "{error}"
    );
    let began = Instant::now();
    worker.stop().await?;
    assert!(began.elapsed() < Duration::from_secs(10));
    let left = info(&test, released.id()).await?;
    assert_eq!((left.state, left.failures), (conductor::Status::Pending, 0));
    Ok(())
}
