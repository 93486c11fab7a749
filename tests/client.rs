//! The client: invoke, wait, look, many at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Filter, Status};
use sqlx::PgConnection;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{number, run_sql, watched};

#[task]
async fn client_echo(_ctx: &TaskContext, text: String) -> anyhow::Result<String> {
    Ok(text)
}

#[task(priority = 3)]
async fn client_double(_ctx: &TaskContext, payload: i64) -> anyhow::Result<i64> {
    Ok(payload * 2)
}

#[task(retry(max_attempts = 1))]
async fn client_fail(_ctx: &TaskContext) -> anyhow::Result<()> {
    anyhow::bail!("no such card: 4711 ‘’ \"quoted\"")
}

type Gate = Arc<Semaphore>;

#[task]
async fn client_gated(ctx: &TaskContext) -> anyhow::Result<u32> {
    ctx.state::<Gate>().acquire().await?.forget();
    Ok(7)
}

fn echo(text: impl Into<String>) -> ClientEcho {
    ClientEcho { text: text.into() }
}

fn gated(test: TestConductor) -> (TestConductor, Gate) {
    let gate = Gate::new(Semaphore::new(0));
    (test.state(Arc::clone(&gate)), gate)
}

#[conductor::test]
async fn what_an_invoke_says_is_found(test: TestConductor) -> anyhow::Result<()> {
    let at: DateTime<Utc> = "2040-05-06T07:08:09.123456Z".parse()?;
    let run = test
        .invoke::<ClientEcho>(echo("x"))
        .run_at(at)
        .priority(-5)
        .await?;
    let info = test.find(run.id()).await?.unwrap();
    assert_eq!(
        (info.id, info.run_at, info.priority),
        (run.id(), Some(at), -5)
    );
    assert_eq!(
        (info.task.as_str(), info.queue.as_str()),
        ("client_echo", "default")
    );
    assert_eq!(info.payload.get(), r#"{"text":"x"}"#);
    assert_eq!(info.state, Status::Pending);

    let run = test
        .invoke::<ClientDouble>(1)
        .delay(Duration::from_millis(90_500))
        .await?;
    let info = test.find(run.id()).await?.unwrap();
    let wait = info.run_at.unwrap() - info.created_at;
    assert_eq!((wait.num_milliseconds(), info.priority), (90_500, 3));
    Ok(())
}

#[conductor::test]
async fn times_that_cannot_be_stored_are_refused(test: TestConductor) -> anyhow::Result<()> {
    for at in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
        let refused = test.invoke::<ClientDouble>(1).run_at(at).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let refused = test.invoke::<ClientDouble>(1).delay(Duration::MAX).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert!(test.list(&Filter::default()).await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_past_run_at_means_now(test: TestConductor) -> anyhow::Result<()> {
    let at: DateTime<Utc> = "0001-01-01T00:00:00Z".parse()?;
    let run = test.invoke::<ClientDouble>(4).run_at(at).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, 8);
    Ok(())
}

#[conductor::test]
async fn a_failed_one_gives_its_error(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<ClientFail>(()).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Failed);
    match run.result().await {
        Err(Error::Failed { id, task, error }) => {
            assert_eq!((id, task.as_str()), (run.id(), "client_fail"));
            assert_eq!(error, "no such card: 4711 ‘’ \"quoted\"");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[conductor::test]
async fn a_cancelled_one_gives_its_reason(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<ClientDouble>(1).await?;
    assert!(test.cancel(run.id()).reason("not\0needed").await?);
    assert!(!test.cancel(run.id()).await?);
    match run.result().await {
        Err(Error::Cancelled { reason, .. }) => {
            assert_eq!(reason.as_deref(), Some("not\u{fffd}needed"));
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[conductor::test]
async fn an_unknown_id_is_not_found(test: TestConductor) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let run = test.execution::<ClientEcho>(id);
    assert!(matches!(run.result().await, Err(Error::NotFound(i)) if i == id));
    assert!(matches!(run.status().await, Err(Error::NotFound(i)) if i == id));
    assert!(test.find(id).await?.is_none());
    assert!(!test.cancel(id).await?);
    assert_eq!(test.retry(id).await?, None);
    Ok(())
}

#[conductor::test]
async fn a_result_is_there_for_another_client_later(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<ClientEcho>(echo("kept")).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(6 * 24 * 3600)).await?;
    let later = Conductor::connect_to(test.url()).await?;
    assert_eq!(
        later.execution::<ClientEcho>(run.id()).result().await?,
        "kept"
    );
    Ok(())
}

#[conductor::test]
async fn an_output_of_another_type_is_an_error(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<ClientEcho>(echo("text")).await?;
    test.drain().await?;
    let misread = test.execution::<ClientDouble>(run.id()).result().await;
    match misread {
        Err(Error::Output { task, reason }) => {
            assert_eq!(task, "client_double");
            assert!(reason.contains("expected i64"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[conductor::test]
async fn all_waiters_of_one_execution_wake(test: TestConductor) -> anyhow::Result<()> {
    let (test, gate) = gated(test);
    let worker = test.orchestrator().build()?.start().await?;
    let other = Conductor::connect_to(test.url()).await?;
    let run = test.invoke::<ClientGated>(()).await?;
    let mut waiters = JoinSet::new();
    for at in 0..60 {
        let client = if at % 2 == 0 {
            (*test).clone()
        } else {
            other.clone()
        };
        let id = run.id();
        waiters.spawn(async move { client.execution::<ClientGated>(id).result().await });
    }
    // Some that give up must not take the others' wake-up along.
    for _ in 0..20 {
        let run = run.clone();
        tokio::time::timeout(Duration::from_millis(1), async move { run.result().await })
            .await
            .unwrap_err();
    }
    watched(&test, run.id()).await;
    gate.add_permits(1);
    while let Some(result) = waiters.join_next().await {
        assert_eq!(result??, 7);
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_result_wakes_by_notification(test: TestConductor) -> anyhow::Result<()> {
    let (test, gate) = gated(test);
    let worker = test.orchestrator().build()?.start().await?;
    let mut took = Vec::new();
    for _ in 0..7 {
        let run = test.invoke::<ClientGated>(()).await?;
        let waiter = tokio::spawn({
            let run = run.clone();
            async move { (run.result().await, Instant::now()) }
        });
        watched(&test, run.id()).await;
        let released = Instant::now();
        gate.add_permits(1);
        let (result, at) = waiter.await?;
        assert_eq!(result?, 7);
        took.push(at - released);
    }
    took.sort();
    assert!(took[3] < Duration::from_millis(500), "{took:?}");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn invoke_json_checks_what_it_is_given(test: TestConductor) -> anyhow::Result<()> {
    let id = test.invoke_json("client_double", " 21 ").await?;
    for (task, payload) in [
        ("client_double", "\"21\""),
        ("client_double", "21 22"),
        ("client_double", ""),
        ("client_echo", "{}"),
        ("client_echo", r#"{"text":"a\u0000b"}"#),
        ("client_echo", "{\"text\":"),
        ("nobody knows", "{"),
    ] {
        match test.invoke_json(task, payload).await {
            Err(Error::Payload { task: named, .. }) => assert_eq!(named, task),
            other => panic!("{task} {payload}: {other:?}"),
        }
    }
    match test.invoke_json("client_dubble", "{}").await {
        Err(error @ Error::UnknownTask { .. }) => {
            let text = error.to_string();
            assert!(
                text.contains("client_dubble") && text.contains("client_double"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    test.drain().await?;
    assert_eq!(test.execution::<ClientDouble>(id).result().await?, 42);
    Ok(())
}

#[conductor::test]
async fn batches_of_every_size_keep_their_order(test: TestConductor) -> anyhow::Result<()> {
    for size in [0, 1, 12_000] {
        run_sql(&test, "delete from conductor.live_executions").await?;
        let ids = test.invoke_batch::<ClientDouble>(0..size).await?;
        assert_eq!(ids.len(), usize::try_from(size)?);
        assert!(ids.is_sorted());
        let stored: Vec<(Uuid, String)> =
            sqlx::query_as("select id, payload::text from conductor.live_executions order by id")
                .fetch_all(test.pool())
                .await?;
        let expected: Vec<_> = (0..size).map(|n| n.to_string()).collect();
        assert_eq!(stored.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        assert!(stored.iter().map(|(_, payload)| payload).eq(&expected));
    }
    Ok(())
}

#[conductor::test]
async fn a_batch_of_json_keeps_its_order(test: TestConductor) -> anyhow::Result<()> {
    assert!(
        test.invoke_batch_json("client_double", [])
            .await?
            .is_empty()
    );
    let ids = test
        .invoke_batch_json("client_double", ["1", "2", "3"])
        .await?;
    test.drain().await?;
    for (id, expected) in ids.into_iter().zip([2, 4, 6]) {
        assert_eq!(test.execution::<ClientDouble>(id).result().await?, expected);
    }
    Ok(())
}

#[conductor::test]
async fn a_batch_is_made_whole_or_not_at_all(test: TestConductor) -> anyhow::Result<()> {
    let bad = test
        .invoke_batch_json("client_double", ["1", "\"two\"", "3"])
        .await;
    assert!(matches!(bad, Err(Error::Payload { .. })), "{bad:?}");
    let nul = ["fine", "nul\0"].map(echo);
    let bad = test.invoke_batch::<ClientEcho>(nul).await;
    assert!(matches!(bad, Err(Error::Payload { .. })), "{bad:?}");
    let bad = test.invoke_batch_json("nobody knows", ["1", "2"]).await;
    assert!(matches!(bad, Err(Error::UnknownTask { .. })), "{bad:?}");

    // One that only the database refuses, in the last of several statements.
    refuse_payload(&test, "11999").await?;
    let bad = test.invoke_batch::<ClientDouble>(0..12_000).await;
    assert!(matches!(bad, Err(Error::Database(_))), "{bad:?}");
    assert_eq!(
        number(&test, "select count(*) from conductor.live_executions").await,
        0
    );
    Ok(())
}

async fn refuse_payload(test: &TestConductor, payload: &str) -> Result<(), sqlx::Error> {
    let sql = format!(
        "create function public.refuse() returns trigger language plpgsql as
         $$ begin raise exception 'refused by a trigger'; end $$;
         create trigger refuse before insert on conductor.live_executions
         for each row when (new.payload::text = '{payload}') execute function public.refuse();"
    );
    run_sql(test, &sql).await
}

#[conductor::test]
async fn each_filter_of_a_list_filters(test: TestConductor) -> anyhow::Result<()> {
    let done = test.invoke::<ClientDouble>(1).await?;
    let failed = test.invoke::<ClientFail>(()).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(3600)).await?;
    let pending = test.invoke::<ClientDouble>(2).await?;
    let cancelled = test.invoke::<ClientEcho>(echo("x")).await?;
    test.cancel(cancelled.id()).await?;

    let ids = async |filter: Filter| -> anyhow::Result<Vec<Uuid>> {
        Ok(test
            .list(&filter)
            .await?
            .iter()
            .map(|info| info.id)
            .collect())
    };
    let all = Filter::default();
    let newest_first = vec![cancelled.id(), pending.id(), failed.id(), done.id()];
    assert_eq!(ids(all.clone()).await?, newest_first);
    let task = Some("client_double".to_owned());
    assert_eq!(
        ids(Filter {
            task,
            ..all.clone()
        })
        .await?,
        [pending.id(), done.id()]
    );
    let queue = Some("default".to_owned());
    assert_eq!(
        ids(Filter {
            queue,
            ..all.clone()
        })
        .await?,
        newest_first
    );
    let queue = Some("Default".to_owned());
    assert!(
        ids(Filter {
            queue,
            ..all.clone()
        })
        .await?
        .is_empty()
    );
    for (state, id) in [
        (Status::Pending, Some(pending.id())),
        (Status::Running, None),
        (Status::Suspended, None),
        (Status::Completed, Some(done.id())),
        (Status::Failed, Some(failed.id())),
        (Status::Cancelled, Some(cancelled.id())),
    ] {
        let filter = Filter {
            state: Some(state),
            ..all.clone()
        };
        assert_eq!(ids(filter).await?, Vec::from_iter(id), "{state}");
    }
    let newer_than = Some(Duration::from_secs(1800));
    assert_eq!(
        ids(Filter {
            newer_than,
            ..all.clone()
        })
        .await?,
        [cancelled.id(), pending.id()]
    );
    let newer_than = Some(Duration::MAX);
    assert_eq!(
        ids(Filter {
            newer_than,
            ..all.clone()
        })
        .await?,
        newest_first
    );
    assert_eq!(
        ids(Filter {
            limit: 1,
            ..all.clone()
        })
        .await?,
        [cancelled.id()]
    );
    assert!(ids(Filter { limit: 0, ..all }).await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn concurrent_invokes_share_statements(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<ClientDouble>(-1).await?;
    let mut calls = JoinSet::new();
    for n in 0..200 {
        let client = (*test).clone();
        calls.spawn(async move { client.invoke::<ClientDouble>(n).await.map(|run| (n, run)) });
    }
    let mut runs = Vec::new();
    while let Some(call) = calls.join_next().await {
        runs.push(call??);
    }
    let statements = "select count(distinct xmin::text) from conductor.live_executions";
    let statements = number(&test, statements).await;
    assert!(statements < 100, "{statements} statements for 200 calls");
    test.drain().await?;
    for (n, run) in runs {
        assert_eq!(run.result().await?, n * 2);
    }
    Ok(())
}

#[conductor::test]
async fn a_caller_that_goes_away_disturbs_no_other(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<ClientDouble>(-1).await?;
    let mut staying = JoinSet::new();
    let mut leaving = Vec::new();
    for n in 0..200 {
        let client = (*test).clone();
        let call = async move { client.invoke::<ClientDouble>(n).await };
        match n % 4 {
            0 => leaving.push(tokio::spawn(call)),
            // Polled once and dropped.
            1 => drop(tokio::time::timeout(Duration::ZERO, call).await),
            _ => drop(staying.spawn(call)),
        }
    }
    leaving.iter().for_each(tokio::task::JoinHandle::abort);
    let mut stayed = 0;
    while let Some(call) = staying.join_next().await {
        assert!(test.find(call??.id()).await?.is_some());
        stayed += 1;
    }
    assert_eq!(stayed, 100);
    // The writer is not stuck.
    test.invoke::<ClientDouble>(1000).await?;
    Ok(())
}

#[conductor::test]
async fn a_refused_invoke_is_refused_alone(test: TestConductor) -> anyhow::Result<()> {
    test.invoke::<ClientDouble>(-1).await?;
    refuse_payload(&test, "13").await?;
    // A lock on the table makes sure that the calls below gather in one batch.
    let mut locker = test.pool().begin().await?;
    lock_executions(&mut locker).await?;
    let first = tokio::spawn({
        let client = (*test).clone();
        async move { client.invoke::<ClientDouble>(0).await }
    });
    let mut calls = JoinSet::new();
    for n in 1..60 {
        let client = (*test).clone();
        calls.spawn(async move {
            let called = match n % 20 {
                7 => client.invoke_json("nobody knows", "1").await,
                _ => client.invoke::<ClientDouble>(n).await.map(|run| run.id()),
            };
            (n, called)
        });
    }
    tokio::task::yield_now().await;
    locker.rollback().await?;
    first.await??;
    while let Some(call) = calls.join_next().await {
        match call? {
            (13, Err(Error::Database(error))) => {
                assert!(
                    error.to_string().contains("refused by a trigger"),
                    "{error}"
                );
            }
            (n, Err(Error::UnknownTask { name, .. })) if n % 20 == 7 => {
                assert_eq!(name, "nobody knows");
            }
            (n, Ok(id)) if n != 13 && n % 20 != 7 => assert!(test.find(id).await?.is_some()),
            other => panic!("{other:?}"),
        }
    }
    let rows = "select count(*) from conductor.live_executions";
    assert_eq!(number(&test, rows).await, 1 + 1 + 59 - 3 - 1);
    Ok(())
}

async fn lock_executions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("lock table conductor.live_executions in exclusive mode")
        .execute(connection)
        .await
        .map(drop)
}
