//! How a sleeping worker learns of work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::postgres::PgListener;

use crate::support::{Gate, count, eventually, session, soon, start_with, watched};

#[task(name = "wakeup-quick")]
async fn wakeup_quick(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "wakeup-gated")]
async fn wakeup_gated(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(())
}

async fn idle(test: &TestConductor) {
    eventually("an idle worker", || async {
        sqlx::query_scalar("select idle from conductor.queues where name = 'default'")
            .fetch_one(test.pool())
            .await
            .unwrap()
    })
    .await;
}

async fn listener(test: &TestConductor) -> anyhow::Result<PgListener> {
    let mut listener = PgListener::connect(test.url()).await?;
    listener.listen("conductor").await?;
    Ok(listener)
}

/// The messages so far; one of the test's own marks the end.
async fn messages(test: &TestConductor, listener: &mut PgListener) -> anyhow::Result<Vec<String>> {
    sqlx::query("select pg_notify('conductor', 'test:end')")
        .execute(test.pool())
        .await?;
    let mut messages = Vec::new();
    loop {
        let message = soon("a message", listener.recv()).await?;
        match message.payload() {
            "test:end" => return Ok(messages),
            other => messages.push(other.to_owned()),
        }
    }
}

#[conductor::test]
async fn an_idle_worker_has_a_job_at_once(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 5, ()).await?;
    let mut took = Vec::new();
    for _ in 0..20 {
        // Past the looks that follow going idle, so that only a notification is quick.
        tokio::time::sleep(Duration::from_millis(300)).await;
        idle(&test).await;
        let began = Instant::now();
        let run = test.invoke::<WakeupQuick>(()).await?;
        soon("the result", run.result()).await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_busy_worker_is_not_notified_of_each_job(test: TestConductor) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    test.invoke::<WakeupGated>(()).await?;
    gate.entered(1).await;
    let mut listener = listener(&test).await?;
    for _ in 0..1000 {
        test.invoke::<WakeupQuick>(()).await?;
    }
    let messages = messages(&test, &mut listener).await?;
    assert!(messages.len() < 20, "{} messages", messages.len());
    gate.open(1);
    eventually("all have run", || async {
        count(&test, "state = 'completed'").await.unwrap() == 1001
    })
    .await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn one_invoke_wakes_the_sleepers_of_its_queue_once(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.invoke::<WakeupQuick>(()).await?;
    let mut listener = listener(&test).await?;
    sqlx::query("update conductor.queues set idle = true")
        .execute(test.pool())
        .await?;
    for _ in 0..3 {
        test.invoke::<WakeupQuick>(()).await?;
    }
    assert_eq!(messages(&test, &mut listener).await?.len(), 1);
    Ok(())
}

#[conductor::test]
async fn several_queues_are_woken_together(test: TestConductor) -> anyhow::Result<()> {
    sqlx::query(
        "insert into conductor.queues (name, idle) values ('a', true), ('b', true), ('c', true)",
    )
    .execute(test.pool())
    .await?;
    let mut listener = listener(&test).await?;
    sqlx::query("select conductor.wake(array(select id from conductor.queues), false)")
        .execute(test.pool())
        .await?;
    assert_eq!(messages(&test, &mut listener).await?.len(), 3);
    Ok(())
}

#[conductor::test]
async fn a_transaction_that_commits_late_wakes_the_worker(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start_with(&test, 5, ()).await?;
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut tx = test.pool().begin().await?;
        let run = test
            .invoke::<WakeupQuick>(())
            .in_transaction(&mut tx)
            .await?;
        // The worker looks in vain, and sleeps.
        tokio::time::sleep(Duration::from_millis(350)).await;
        idle(&test).await;
        assert!(test.find(run.id()).await?.is_none());
        tx.commit().await?;
        let began = Instant::now();
        soon("the result", run.result()).await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    assert!(took[2] < Duration::from_millis(200), "{took:?}");
    worker.stop().await?;
    Ok(())
}

type Naps = std::sync::Mutex<Vec<Duration>>;

/// Works for longer than a worker looks often behind its last claim, and sleeps for a moment then.
#[task(name = "wakeup-napper")]
async fn wakeup_napper(ctx: &TaskContext) -> anyhow::Result<()> {
    let began = ctx
        .step("begin", async || Ok::<_, anyhow::Error>(Utc::now()))
        .await?;
    if Utc::now() - began < TimeDelta::milliseconds(300) {
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let lay_down = ctx
        .step("lie down", async || Ok::<_, anyhow::Error>(Utc::now()))
        .await?;
    ctx.sleep("nap", Duration::from_millis(50)).await?;
    let took = (Utc::now() - lay_down).to_std()?;
    ctx.state::<Arc<Naps>>().lock().unwrap().push(took);
    Ok(())
}

#[conductor::test]
async fn what_an_otherwise_idle_worker_puts_off_comes_when_it_is_due(
    test: TestConductor,
) -> anyhow::Result<()> {
    let naps = Arc::new(Naps::default());
    let worker = start_with(&test, 5, naps.clone()).await?;
    for _ in 0..3 {
        let run = test.invoke::<WakeupNapper>(()).await?;
        soon("the nap's end", run.result()).await?;
    }
    let mut naps = naps.lock().unwrap().clone();
    naps.sort_unstable();
    // The next look would come behind more than 660 ms.
    assert!(naps[1] < Duration::from_millis(600), "{naps:?}");
    worker.stop().await?;
    Ok(())
}

/// A quick one is told within the process, so nobody asks the database to tell of it.
#[conductor::test]
async fn the_end_of_what_this_process_runs_needs_no_notification(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start_with(&test, 5, ()).await?;
    let listener = tokio::sync::Mutex::new(listener(&test).await?);
    eventually("one that nobody has marked", || async {
        let run = test.invoke::<WakeupQuick>(()).await.unwrap();
        soon("the result", run.result()).await.unwrap();
        let told = format!("done:{}", run.id());
        let messages = messages(&test, &mut *listener.lock().await).await.unwrap();
        !messages.contains(&told)
    })
    .await;
    worker.stop().await?;
    Ok(())
}

/// How many connections listen.
async fn listeners(test: &TestConductor) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity
          where datname = current_database()
            and (query ilike 'listen%' or query like 'select floor(extract(epoch from shift)%')",
    )
    .fetch_one(test.pool())
    .await
    .unwrap()
}

#[conductor::test]
async fn a_process_listens_once_and_those_who_wait_outlive_who_listened(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    eventually("the worker's listener", || async {
        listeners(&test).await == 1
    })
    .await;
    let run = test.invoke::<WakeupGated>(()).await?;
    gate.entered(1).await;
    let waits = tokio::spawn({
        let run = run.clone();
        async move { run.result().await }
    });
    let later = test
        .invoke::<WakeupQuick>(())
        .delay(Duration::from_secs(3600))
        .await?;
    let waits_on = tokio::spawn({
        let later = later.clone();
        async move { later.result().await }
    });
    watched(&test, run.id()).await;
    watched(&test, later.id()).await;
    assert!(listeners(&test).await < 2);
    gate.open(1);
    soon("the result", waits).await??;
    worker.stop().await?;
    eventually("a listener of the one who waits", || async {
        listeners(&test).await == 1
    })
    .await;
    test.advance(Duration::from_secs(3600)).await?;
    let worker = start_with(&test, 1, gate).await?;
    soon("the later result", waits_on).await??;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn without_notifications_everything_is_found_by_polling(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut session = session(&test).await?;
    let worker = start_with(&test, 5, ()).await?;
    let deaf = tokio::spawn(async move {
        loop {
            // Those that listen have said so last.
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()
                    and (query ilike 'listen%' or query like 'select floor(extract(epoch from shift)%')",
            )
            .execute(&mut session)
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..3 {
        idle(&test).await;
        let run = test.invoke::<WakeupQuick>(()).await?;
        let began = Instant::now();
        soon("the result", run.result()).await?;
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    deaf.abort();
    worker.stop().await?;
    Ok(())
}
