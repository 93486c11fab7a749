//! Anybody who may connect can notify: what a message says is asked of the database, not believed.

use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Status};
use sqlx::{AssertSqlSafe, Executor};

use crate::support::{Gate, Role, soon, start_with};

/// Says whether it was told of a cancel before its gate opened.
#[task(name = "hints.slow", timeout = "100s", retry(max_attempts = 1))]
async fn hints_slow(ctx: &TaskContext) -> anyhow::Result<String> {
    tokio::select! {
        biased;
        () = ctx.until_cancelled() => Ok("told".to_owned()),
        () = ctx.state::<Arc<Gate>>().pass() => Ok("done".to_owned()),
    }
}

/// Runs statements as a login without any right on the schema.
async fn as_nobody(test: &TestConductor, statements: &[String]) -> anyhow::Result<()> {
    let role = Role::new(test).await;
    let pool = role.pool();
    let mut nobody = pool.acquire().await?;
    for sql in statements {
        nobody.execute(AssertSqlSafe(sql.clone())).await?;
    }
    drop(nobody);
    pool.close().await;
    Ok(())
}

/// Returns when a cancel that was made now has been heard, and with it what was notified before.
async fn heard(test: &TestConductor, gate: &Gate) -> anyhow::Result<()> {
    let other = test.invoke::<HintsSlow>(()).await?;
    gate.entered(1).await;
    assert!(test.cancel(other.id()).await?);
    let ended = soon("the cancel", other.result()).await;
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    Ok(())
}

#[conductor::test]
async fn a_cancel_that_nobody_made_is_not_heard(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 4, gate.clone()).await?;
    let run = test.invoke::<HintsSlow>(()).await?;
    gate.entered(1).await;
    let forged = format!("notify conductor, 'cancel:{}'", run.id());
    as_nobody(&test, &[forged]).await?;
    heard(&test, &gate).await?;
    assert_eq!(run.status().await?, Status::Running);
    gate.open(1);
    assert_eq!(soon("its end", run.result()).await?, "done");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_clock_that_nobody_moved_stands_still(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 4, gate.clone()).await?;
    let run = test.invoke::<HintsSlow>(()).await?;
    gate.entered(1).await;
    let forged = [
        "notify conductor, 'clock:99999999999'",
        "notify conductor, 'clock:-99999999999'",
        "notify conductor, 'clock:9223372036854775807'",
    ];
    as_nobody(&test, &forged.map(str::to_owned)).await?;
    heard(&test, &gate).await?;
    assert_eq!(run.status().await?, Status::Running);
    gate.open(1);
    assert_eq!(soon("its end", run.result()).await?, "done");
    // Moved by those who may, it moves.
    let late = test.invoke::<HintsSlow>(()).await?;
    gate.entered(1).await;
    test.advance(Duration::from_secs(101)).await?;
    let ended = soon("the timeout", late.result()).await;
    assert!(matches!(&ended, Err(Error::Failed { .. })), "{ended:?}");
    worker.stop().await?;
    Ok(())
}

/// Messages of all kinds, also such as mean nothing, cost a bounded number of looks and break nothing.
#[conductor::test]
async fn a_flood_of_messages_is_a_few_looks(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 4, gate.clone()).await?;
    let run = test.invoke::<HintsSlow>(()).await?;
    gate.entered(1).await;
    let kinds = format!(
        "array['cancel:{0}', 'clock:99999999999', 'version:99', 'done:{0}', 'queue:1', 'events:', 'schedules:',
               'cancel:', 'clock:x', 'queue:99999999999999999999', 'nonsense', '', ':']",
        run.id()
    );
    let flood = format!("select pg_notify('conductor', k) from unnest({kinds}) k");
    let statements: Vec<String> = (0..200).map(|_| flood.clone()).collect();
    as_nobody(&test, &statements).await?;
    heard(&test, &gate).await?;
    assert_eq!(run.status().await?, Status::Running);
    gate.open(1);
    assert_eq!(soon("its end", run.result()).await?, "done");
    worker.stop().await?;
    Ok(())
}
