//! G12: one arbiter for keys, slots that count what has finished, debounce until it is quiet.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Handle, Invocation, Invoke, Invoked, Status};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Gate, eventually, info, narrow, number, run_sql, session, soon};

const HOUR: Duration = Duration::from_secs(3600);

/// What has run, in order.
#[derive(Default)]
struct Ran(Mutex<Vec<i64>>);

#[task]
async fn g12_run(_ctx: &TaskContext, payload: i64, ran: State<Arc<Ran>>) -> anyhow::Result<i64> {
    ran.push(payload);
    Ok(payload)
}

/// By its payload: 0 completes, 1 fails, 2 waits for another attempt, 3 sleeps, 4 stands at the gate.
#[task(retry(max_attempts = 2, backoff = "1h..1h", jitter = 0))]
async fn g12_end(ctx: &TaskContext, payload: i64, gate: State<Arc<Gate>>) -> anyhow::Result<()> {
    match payload {
        1 => Err(anyhow::anyhow!("as told")).permanent(),
        2 => anyhow::bail!("not yet"),
        3 => Ok(ctx.sleep("long", 10 * HOUR).await?),
        4 => {
            gate.pass().await;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn test_with_states(test: TestConductor) -> (TestConductor, Arc<Ran>, Arc<Gate>) {
    let (ran, gate) = (Arc::new(Ran::default()), Gate::new());
    let test = test.state(Arc::clone(&ran)).state(Arc::clone(&gate));
    (test, ran, gate)
}

impl Ran {
    fn push(&self, payload: i64) {
        self.0.lock().unwrap().push(payload);
    }

    fn take(&self) -> Vec<i64> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

async fn start(test: &TestConductor) -> anyhow::Result<Handle> {
    let orchestrator = test
        .orchestrator()
        .worker(narrow(10))
        .allow_unserved_queues()
        .build()?;
    Ok(orchestrator.start().await?)
}

async fn payload(test: &TestConductor, id: Uuid) -> anyhow::Result<String> {
    Ok(info(test, id).await?.payload.get().to_owned())
}

async fn executions(test: &TestConductor) -> i64 {
    number(test, "select count(*) from conductor.executions").await
}

#[conductor::test]
async fn what_has_not_started_is_replaced_and_keeps_its_id(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let keyed = |n| test.invoke::<G12Run>(n).dedupe_key("k");
    let first = keyed(1).delay(HOUR).priority(4).await?;
    assert_eq!(first.came_of(), Invoked::Created);
    let before = info(&test, first.id()).await?;
    assert_eq!(before.dedupe_key.as_deref(), Some("k"));

    let second = keyed(2).await?;
    assert_eq!(
        (second.id(), second.came_of()),
        (first.id(), Invoked::Replaced)
    );
    let after = info(&test, first.id()).await?;
    assert_eq!((after.payload.get(), after.priority), ("2", 4));
    assert_eq!(
        (after.run_at, after.created_at),
        (before.run_at, before.created_at)
    );

    // Time and priority change where they are said.
    let at: chrono::DateTime<chrono::Utc> = "2040-05-06T07:08:09Z".parse()?;
    keyed(3).run_at(at).priority(-2).await?;
    let after = info(&test, first.id()).await?;
    assert_eq!(
        (after.payload.get(), after.priority, after.run_at),
        ("3", -2, Some(at))
    );
    test.drain().await?;
    assert!(ran.take().is_empty());
    keyed(4).delay(Duration::ZERO).await?;
    test.drain().await?;
    assert_eq!(ran.take(), [4]);
    assert_eq!(first.result().await?, 4);
    assert_eq!(executions(&test).await, 1);
    assert_eq!(
        info(&test, first.id()).await?.dedupe_key.as_deref(),
        Some("k")
    );
    Ok(())
}

#[conductor::test]
async fn keys_are_their_tasks_and_others_are_not_touched(
    test: TestConductor,
) -> anyhow::Result<()> {
    let one = test.invoke::<G12Run>(1).dedupe_key("k").await?;
    let other_key = test.invoke::<G12Run>(2).dedupe_key("K").await?;
    let other_task = test.invoke::<G12End>(3).dedupe_key("k").await?;
    let none = test.invoke::<G12Run>(4).await?;
    let again = test.invoke::<G12Run>(5).await?;
    for (n, run) in [(1, &one), (2, &other_key), (4, &none), (5, &again)] {
        assert_eq!(run.came_of(), Invoked::Created);
        assert_eq!(payload(&test, run.id()).await?, n.to_string());
    }
    assert_eq!(other_task.came_of(), Invoked::Created);
    assert_eq!(executions(&test).await, 5);
    assert_eq!(info(&test, none.id()).await?.dedupe_key, None);
    Ok(())
}

/// Says the same by each interface; gives what came of it, where the interface tells.
async fn by_all(
    test: &TestConductor,
    say: impl for<'c> Fn(Invoke<'c, G12End>) -> Invoke<'c, G12End>,
    item: impl Fn(Invocation<G12End>) -> Invocation<G12End>,
    sql: &str,
) -> anyhow::Result<Vec<(Uuid, Option<Invoked>)>> {
    let single = say(test.invoke::<G12End>(7)).await?;
    let mut tx = test.pool().begin().await?;
    let within = say(test.invoke::<G12End>(7))
        .in_transaction(&mut tx)
        .await?;
    tx.commit().await?;
    let batch = test
        .invoke_batch_with::<G12End>([item(Invocation::new(7)), item(Invocation::new(7))])
        .came_of()
        .await?;
    let sql = format!("select conductor.invoke('g12_end', '7', {sql})");
    let by_sql: Uuid = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(test.pool())
        .await?;
    let mut all = vec![
        (single.id(), Some(single.came_of())),
        (within.id(), Some(within.came_of())),
        (by_sql, None),
    ];
    all.extend(batch.into_iter().map(|(id, came_of)| (id, Some(came_of))));
    Ok(all)
}

fn all_are(answers: &[(Uuid, Option<Invoked>)], id: Uuid, came_of: Invoked) {
    for answer in answers {
        assert_eq!(answer.0, id, "{answers:?}");
        assert!(answer.1.is_none_or(|it| it == came_of), "{answers:?}");
    }
}

#[conductor::test]
async fn what_has_started_is_returned_untouched(test: TestConductor) -> anyhow::Result<()> {
    let (test, _, gate) = test_with_states(test);
    // Running, suspended, waiting for its next attempt.
    for (n, state) in [
        (4, Status::Running),
        (3, Status::Suspended),
        (2, Status::Pending),
    ] {
        let key = format!("k{n}");
        let handle = start(&test).await?;
        let run = test.invoke::<G12End>(n).dedupe_key(&key).await?;
        eventually("the state", || async {
            let now = info(&test, run.id()).await.unwrap();
            now.state == state && now.claim > 0
        })
        .await;
        let before = info(&test, run.id()).await?;
        let sql = format!("dedupe_key => '{key}', priority => 9");
        let answers = by_all(
            &test,
            |invoke| invoke.dedupe_key(&key).delay(HOUR).priority(9),
            |item| item.dedupe_key(&key).delay(HOUR).priority(9),
            &sql,
        )
        .await?;
        all_are(&answers, run.id(), Invoked::Existing);
        let after = info(&test, run.id()).await?;
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
        gate.open(usize::from(n == 4));
        handle.stop().await?;
    }
    // Given back by a worker that stopped: somebody has started it.
    let handle = start(&test).await?;
    let run = test.invoke::<G12End>(4).dedupe_key("back").await?;
    gate.entered(2).await;
    crate::support::give_back(&test, run.id()).await?;
    gate.open(10);
    handle.stop().await?;
    Ok(())
}

#[conductor::test]
async fn one_that_was_given_back_has_started(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G12End>(0).dedupe_key("k").await?;
    // As if a worker had it and stopped.
    run_sql(
        &test,
        "update conductor.live_executions set state = 'running', claim = 1;
         select conductor.give_back(array(select id from conductor.live_executions), null)",
    )
    .await?;
    assert_eq!(info(&test, run.id()).await?.state, Status::Pending);
    let again = test.invoke::<G12End>(9).dedupe_key("k").await?;
    assert_eq!((again.id(), again.came_of()), (run.id(), Invoked::Existing));
    assert_eq!(payload(&test, run.id()).await?, "0");
    Ok(())
}

#[conductor::test]
async fn once_it_has_ended_a_new_one_is_made(test: TestConductor) -> anyhow::Result<()> {
    let (test, ..) = test_with_states(test);
    let mut ids = Vec::new();
    for end in ["completed", "failed", "cancelled"] {
        let n = i64::from(end == "failed");
        let run = test.invoke::<G12End>(n).dedupe_key("k").await?;
        assert_eq!(run.came_of(), Invoked::Created, "{end}");
        if end == "cancelled" {
            assert!(test.cancel(run.id()).await?);
        }
        test.drain().await?;
        assert_eq!(run.status().await?.as_str(), end);
        ids.push(run.id());
        assert_eq!(payload(&test, run.id()).await?, n.to_string());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let batch = test
        .invoke_batch_with::<G12End>([Invocation::new(5).dedupe_key("k")])
        .came_of()
        .await?;
    assert_eq!(batch[0].1, Invoked::Created);
    Ok(())
}

#[conductor::test]
async fn a_repeat_of_an_ended_one_has_no_key(test: TestConductor) -> anyhow::Result<()> {
    let (test, ..) = test_with_states(test);
    let ended = test.invoke::<G12End>(1).dedupe_key("k").await?;
    test.drain().await?;
    let next = test.invoke::<G12End>(0).dedupe_key("k").await?;
    let repeat = test.retry(ended.id()).await?.unwrap();
    assert_eq!(info(&test, repeat).await?.dedupe_key, None);
    let replaced = test.invoke::<G12End>(5).dedupe_key("k").await?;
    assert_eq!(
        (replaced.id(), replaced.came_of()),
        (next.id(), Invoked::Replaced)
    );
    Ok(())
}

#[conductor::test]
async fn the_first_in_a_slot_wins_finished_or_not(test: TestConductor) -> anyhow::Result<()> {
    let (test, _, gate) = test_with_states(test);
    for key in [None, Some("k")] {
        // Pending, running, suspended, waiting, completed, failed, cancelled.
        for (n, state) in [
            (0, "pending"),
            (4, "running"),
            (3, "suspended"),
            (2, "pending"),
            (0, "completed"),
            (1, "failed"),
            (0, "cancelled"),
        ] {
            let first = test.invoke::<G12End>(n).throttle(HOUR);
            let first = match key {
                Some(key) => first.dedupe_key(key).await?,
                None => first.await?,
            };
            assert_eq!(first.came_of(), Invoked::Created, "{n} {state} {key:?}");
            let handle = if state == "cancelled" {
                test.cancel(first.id()).await?;
                None
            } else if (n, state) == (0, "pending") {
                None
            } else {
                Some(start(&test).await?)
            };
            eventually("the state", || async {
                let now = info(&test, first.id()).await.unwrap();
                now.state.as_str() == state && (handle.is_none() || now.claim > 0)
            })
            .await;
            test.advance(HOUR / 2).await?;
            let sql = match key {
                Some(_) => "throttle => '1 hour', dedupe_key => 'k'",
                None => "throttle => '1 hour'",
            };
            let answers = match key {
                Some(key) => {
                    by_all(
                        &test,
                        |invoke| invoke.throttle(HOUR).dedupe_key(key),
                        |item| item.throttle(HOUR).dedupe_key(key),
                        sql,
                    )
                    .await?
                }
                None => {
                    by_all(
                        &test,
                        |invoke| invoke.throttle(HOUR),
                        |item| item.throttle(HOUR),
                        sql,
                    )
                    .await?
                }
            };
            all_are(&answers, first.id(), Invoked::Throttled);
            assert_eq!(payload(&test, first.id()).await?, n.to_string());
            gate.open(usize::from(n == 4));
            if let Some(handle) = handle {
                handle.stop().await?;
            }
            // To the next slot, with nothing of this one left.
            test.cancel(first.id()).await?;
            test.advance(HOUR / 2).await?;
        }
    }
    assert_eq!(executions(&test).await, 14);
    Ok(())
}

#[conductor::test]
async fn a_slot_outlives_its_execution_and_then_goes(test: TestConductor) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let slot = 90 * 24 * HOUR;
    let first = test.invoke::<G12Run>(1).throttle(slot).await?;
    test.drain().await?;
    test.advance(slot - HOUR).await?;
    let prune = "select conductor.prune(100)";
    assert_eq!(
        number(&test, "select conductor.prune(100)::bigint").await,
        1
    );
    assert!(test.find(first.id()).await?.is_none());
    let again = test.invoke::<G12Run>(2).throttle(slot).await?;
    assert_eq!(
        (again.id(), again.came_of()),
        (first.id(), Invoked::Throttled)
    );
    test.advance(HOUR).await?;
    run_sql(&test, prune).await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.throttles").await,
        0
    );
    let next = test.invoke::<G12Run>(3).throttle(slot).await?;
    assert_eq!(next.came_of(), Invoked::Created);
    test.drain().await?;
    assert_eq!(ran.take(), [1, 3]);
    Ok(())
}

#[conductor::test]
async fn after_the_slot_the_key_decides(test: TestConductor) -> anyhow::Result<()> {
    let (test, _, gate) = test_with_states(test);
    let say = |n| test.invoke::<G12End>(n).dedupe_key("k").throttle(HOUR);
    let first = say(0).delay(10 * HOUR).await?;
    test.advance(HOUR).await?;
    // It has not started: replaced, in a slot of its own.
    let second = say(4).delay(Duration::ZERO).await?;
    assert_eq!(
        (second.id(), second.came_of()),
        (first.id(), Invoked::Replaced)
    );
    let third = say(6).await?;
    assert_eq!(
        (third.id(), third.came_of()),
        (first.id(), Invoked::Throttled)
    );
    // A plain key replaces it within the slot too.
    let plain = test.invoke::<G12End>(4).dedupe_key("k").await?;
    assert_eq!(plain.came_of(), Invoked::Replaced);

    let handle = start(&test).await?;
    gate.entered(1).await;
    assert_eq!(say(7).await?.came_of(), Invoked::Throttled);
    test.advance(HOUR).await?;
    // It still runs: nothing is made, so no slot begins.
    let batch = test
        .invoke_batch_with::<G12End>(
            [8, 9].map(|n| Invocation::new(n).dedupe_key("k").throttle(HOUR)),
        )
        .came_of()
        .await?;
    assert_eq!(batch, vec![(first.id(), Invoked::Existing); 2]);
    gate.open(1);
    first.result().await?;
    assert_eq!(say(0).await?.came_of(), Invoked::Created);
    handle.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_debounced_one_runs_when_it_is_quiet_with_the_last_payload(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    for key in [None, Some("k")] {
        let say = |n| {
            let invoke = test.invoke::<G12Run>(n).debounce(HOUR);
            match key {
                Some(key) => invoke.dedupe_key(key),
                None => invoke,
            }
        };
        let first = say(1).await?;
        assert_eq!(first.came_of(), Invoked::Created);
        // No fixed slot: each call moves it.
        for n in 2..=5 {
            test.advance(HOUR - Duration::from_secs(60)).await?;
            test.drain().await?;
            assert!(ran.take().is_empty());
            let run = say(n).await?;
            assert_eq!((run.id(), run.came_of()), (first.id(), Invoked::Replaced));
        }
        let due = info(&test, first.id()).await?.run_at.unwrap() - test.now().await?;
        assert!((3590..=3600).contains(&due.num_seconds()), "{due}");
        test.advance(HOUR - Duration::from_secs(60)).await?;
        test.drain().await?;
        assert!(ran.take().is_empty());
        test.advance(Duration::from_secs(60)).await?;
        test.drain().await?;
        assert_eq!(ran.take(), [5]);
        // Ended: a new one.
        let next = say(6).await?;
        assert_eq!(next.came_of(), Invoked::Created);
        assert_ne!(next.id(), first.id());
        test.advance(HOUR).await?;
        test.drain().await?;
        assert_eq!(ran.take(), [6]);
        assert_eq!(info(&test, next.id()).await?.dedupe_key.as_deref(), key);
    }
    Ok(())
}

#[conductor::test]
async fn a_debounced_call_after_the_start_makes_a_new_one(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, _, gate) = test_with_states(test);
    let say = |n| test.invoke::<G12End>(n).debounce(HOUR);
    // Running, suspended, waiting for its next attempt.
    for n in [4, 3, 2] {
        let handle = start(&test).await?;
        let first = say(n).await?;
        test.advance(HOUR).await?;
        eventually("the start", || async {
            let now = info(&test, first.id()).await.unwrap();
            now.claim > 0 && (n == 4 || now.state != Status::Running)
        })
        .await;
        let before = info(&test, first.id()).await?;
        let second = say(0).await?;
        assert_eq!(second.came_of(), Invoked::Created, "{n}");
        assert_ne!(second.id(), first.id());
        let third = say(0).await?;
        assert_eq!(
            (third.id(), third.came_of()),
            (second.id(), Invoked::Replaced)
        );
        let after = info(&test, first.id()).await?;
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
        gate.open(usize::from(n == 4));
        test.advance(HOUR).await?;
        soon("the second one", second.result()).await?;
        handle.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn the_keys_of_debounced_calls_are_apart(test: TestConductor) -> anyhow::Result<()> {
    let answers = test
        .invoke_batch_with([
            Invocation::<G12Run>::new(1).dedupe_key("k").debounce(HOUR),
            Invocation::new(2).dedupe_key("k"),
            Invocation::new(3).debounce(HOUR),
        ])
        .came_of()
        .await?;
    for (n, (id, came_of)) in answers.iter().enumerate() {
        assert_eq!(*came_of, Invoked::Created);
        assert_eq!(payload(&test, *id).await?, (n + 1).to_string());
    }
    assert_eq!(info(&test, answers[2].0).await?.dedupe_key, None);
    let again = test.invoke::<G12Run>(4).dedupe_key("k").await?;
    assert_eq!(
        (again.id(), again.came_of()),
        (answers[1].0, Invoked::Replaced)
    );
    Ok(())
}

#[conductor::test]
async fn a_transaction_decides_with_its_commit(test: TestConductor) -> anyhow::Result<()> {
    let kept = test.invoke::<G12Run>(1).dedupe_key("k").delay(HOUR).await?;
    for commit in [false, true] {
        let mut tx = test.pool().begin().await?;
        let within = |n, key| test.invoke::<G12Run>(n).dedupe_key(key);
        let replaced = within(2, "k").in_transaction(&mut tx).await?;
        assert_eq!(
            (replaced.id(), replaced.came_of()),
            (kept.id(), Invoked::Replaced)
        );
        let made = within(3, "new").in_transaction(&mut tx).await?;
        assert_eq!(made.came_of(), Invoked::Created);
        let again = within(4, "new").in_transaction(&mut tx).await?;
        assert_eq!(
            (again.id(), again.came_of()),
            (made.id(), Invoked::Replaced)
        );
        let slot = test.invoke::<G12Run>(5).throttle(HOUR);
        let slot = slot.in_transaction(&mut tx).await?;
        assert_eq!(slot.came_of(), Invoked::Created);
        let quiet = test.invoke::<G12Run>(6).debounce(HOUR);
        let quiet = quiet.in_transaction(&mut tx).await?;
        assert_eq!(quiet.came_of(), Invoked::Created);
        if commit {
            tx.commit().await?;
            assert_eq!(payload(&test, kept.id()).await?, "2");
            assert_eq!(payload(&test, made.id()).await?, "4");
            assert_eq!(executions(&test).await, 4);
        } else {
            tx.rollback().await?;
            assert_eq!(payload(&test, kept.id()).await?, "1");
            assert_eq!(executions(&test).await, 1);
            assert_eq!(
                number(&test, "select count(*) from conductor.throttles").await,
                0
            );
        }
    }
    Ok(())
}

/// Waits until some session waits for another's lock.
async fn blocked(test: &TestConductor) {
    eventually("a session that waits", || async {
        let waiting = "select count(*) from pg_stat_activity
                        where datname = current_database() and wait_event_type = 'Lock'";
        number(test, waiting).await > 0
    })
    .await;
}

#[conductor::test]
async fn the_second_of_two_transactions_waits_for_the_first(
    test: TestConductor,
) -> anyhow::Result<()> {
    for (round, commit) in [false, true].into_iter().enumerate() {
        let key = format!("k{round}");
        let mut tx = test.pool().begin().await?;
        let first = test.invoke::<G12Run>(1).dedupe_key(&key);
        let first = first.in_transaction(&mut tx).await?;
        let conductor = Conductor::from_pool(test.pool().clone());
        let second = tokio::spawn({
            let (conductor, key) = (conductor.clone(), key.clone());
            async move { conductor.invoke::<G12Run>(2).dedupe_key(key).await }
        });
        blocked(&test).await;
        assert!(!second.is_finished());
        // A call without a key does not queue up behind the one that waits.
        soon(
            "a plain invoke",
            conductor.invoke::<G12Run>(3).into_future(),
        )
        .await?;
        if commit {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        let second = soon("the second call", second).await??;
        assert_eq!(second.id() == first.id(), commit);
        let came_of = if commit {
            Invoked::Replaced
        } else {
            Invoked::Created
        };
        assert_eq!(second.came_of(), came_of);
        assert_eq!(payload(&test, second.id()).await?, "2");
    }
    Ok(())
}

#[conductor::test]
async fn one_batch_is_as_calls_one_by_one(test: TestConductor) -> anyhow::Result<()> {
    let item = |n: i64| Invocation::<G12Run>::new(n);
    let answers = test
        .invoke_batch_with([
            item(0).dedupe_key("a").priority(1),
            item(1).dedupe_key("a").delay(HOUR),
            item(2),
            item(3).dedupe_key("b").debounce(HOUR),
            item(4).throttle(HOUR),
            item(5).dedupe_key("a"),
            item(6).throttle(HOUR),
            item(7).dedupe_key("b").debounce(2 * HOUR),
            item(8),
            item(9).dedupe_key("c").throttle(HOUR),
            item(10).dedupe_key("c").throttle(HOUR),
            item(11).debounce(HOUR).priority(7),
        ])
        .came_of()
        .await?;
    let came_of: Vec<_> = answers.iter().map(|(_, came_of)| *came_of).collect();
    use Invoked::{Created, Replaced, Throttled};
    assert_eq!(
        came_of,
        [
            Created, Replaced, Created, Created, Created, Replaced, Throttled, Replaced, Created,
            Created, Throttled, Created,
        ]
    );
    for (left, right) in [(0, 1), (0, 5), (3, 7), (4, 6), (9, 10)] {
        assert_eq!(answers[left].0, answers[right].0, "{left} {right}");
    }
    assert_eq!(executions(&test).await, 7);
    for (n, expected) in [
        (0, "5"),
        (2, "2"),
        (3, "7"),
        (4, "4"),
        (8, "8"),
        (9, "9"),
        (11, "11"),
    ] {
        assert_eq!(payload(&test, answers[n].0).await?, expected);
    }
    let a = info(&test, answers[0].0).await?;
    assert_eq!(a.priority, 1);
    assert_eq!((a.run_at.unwrap() - a.created_at).num_minutes(), 60);
    let b = info(&test, answers[3].0).await?;
    assert!((119..=120).contains(&(b.run_at.unwrap() - b.created_at).num_minutes()));
    assert_eq!(info(&test, answers[11].0).await?.priority, 7);
    Ok(())
}

#[conductor::test]
async fn a_thousand_calls_at_once_make_one_execution(test: TestConductor) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let mut clients = vec![Conductor::from_pool(test.pool().clone())];
    for _ in 0..3 {
        clients.push(Conductor::connect_to(test.url()).await?);
    }
    for option in ["key", "throttle", "debounce"] {
        let mut calls = JoinSet::new();
        for n in 0..1000 {
            let client = clients[n % clients.len()].clone();
            calls.spawn(async move {
                let invoke = client.invoke::<G12Run>(i64::try_from(n).unwrap());
                match option {
                    "key" => invoke.dedupe_key("one").await,
                    "throttle" => invoke.throttle(HOUR).await,
                    _ => invoke.debounce(HOUR).await,
                }
            });
        }
        let (mut ids, mut created) = (Vec::new(), 0);
        while let Some(call) = calls.join_next().await {
            let run = call??;
            created += usize::from(run.came_of() == Invoked::Created);
            ids.push(run.id());
        }
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), created), (1, 1), "{option}");
        if option == "debounce" {
            test.advance(HOUR).await?;
        }
        test.drain().await?;
        assert_eq!(ran.take().len(), 1, "{option}");
    }
    assert_eq!(executions(&test).await, 3);
    Ok(())
}

/// Workers claim while callers replace: the payload of the last call that was told that its payload
/// stands is the one that ran, or a later one is.
#[conductor::test]
async fn a_replaced_payload_is_never_lost(test: TestConductor) -> anyhow::Result<()> {
    const CALLERS: i64 = 6;
    const CALLS: i64 = 120;
    let (test, ran, _) = test_with_states(test);
    let handle = start(&test).await?;
    for debounced in [false, true] {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let client = Conductor::connect_to(test.url()).await?;
            callers.spawn(async move {
                // One key a caller, so that its calls have an order.
                let key = format!("{debounced} {caller}");
                let mut taken = Vec::new();
                for n in 0..CALLS {
                    let payload = caller * CALLS + n;
                    let invoke = client.invoke::<G12Run>(payload).dedupe_key(&key);
                    let run = if debounced {
                        invoke.debounce(Duration::from_millis(1)).await?
                    } else {
                        invoke.await?
                    };
                    taken.push((payload, run.id(), run.came_of()));
                    if fastrand(payload) % 3 == 0 {
                        tokio::time::sleep(Duration::from_micros(fastrand(n) % 3000)).await;
                    }
                }
                Ok::<_, Error>(taken)
            });
        }
        let mut all = Vec::new();
        while let Some(caller) = callers.join_next().await {
            all.push(caller??);
        }
        eventually("the end of all", || async {
            number(&test, "select count(*) from conductor.live_executions").await == 0
        })
        .await;
        let ran = ran.take();
        let mut seen = [0; 3];
        for taken in all {
            for (at, (payload, id, came_of)) in taken.iter().enumerate() {
                seen[*came_of as usize] += 1;
                let replaced = taken
                    .get(at + 1)
                    .is_some_and(|(_, next, came_of)| next == id && *came_of == Invoked::Replaced);
                let wanted = *came_of != Invoked::Existing && !replaced;
                let times = ran.iter().filter(|n| *n == payload).count();
                assert_eq!(times, usize::from(wanted), "{payload} {came_of}");
            }
        }
        assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    }
    handle.stop().await?;
    Ok(())
}

/// A number that looks random, the same in each run.
fn fastrand(seed: i64) -> u64 {
    let mut x = seed.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[conductor::test]
async fn batches_with_the_same_keys_wait_in_one_direction(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let handle = start(&test).await?;
    let mut batches = JoinSet::new();
    for seed in 0..6 {
        let client = Conductor::connect_to(test.url()).await?;
        batches.spawn(async move {
            for round in 0..15 {
                let items = (0..60).map(|n| {
                    let random = fastrand(seed * 10_000 + round * 100 + n);
                    let item = Invocation::<G12Run>::new(n).dedupe_key((random % 40).to_string());
                    match random % 7 {
                        0 => item.debounce(Duration::from_millis(5)),
                        1 => item.throttle(Duration::from_millis(5)),
                        _ => item,
                    }
                });
                client.invoke_batch_with(items).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(batch) = batches.join_next().await {
        batch??;
    }
    eventually("the end of all", || async {
        number(&test, "select count(*) from conductor.live_executions").await == 0
    })
    .await;
    handle.stop().await?;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(number(&test, deadlocks).await, 0);
    assert!(!ran.take().is_empty());
    Ok(())
}

type Sent = (Option<Vec<Uuid>>, Option<Vec<String>>);

/// The client's statement, for one call.
async fn send(
    connection: &mut PgConnection,
    id: Uuid,
    payload: &str,
    options: (Option<&str>, Option<i64>, Option<i64>),
    again: bool,
) -> Result<(Uuid, String), sqlx::Error> {
    let (ids, came_of): Sent = sqlx::query_as(
        "select ids, came_of from conductor.invoke_many(
             array[$1], array['g12_run'], array[$2], array[null::timestamptz], array[null::bigint],
             array[null::integer], false, $3, array[$4], array[$5], array[$6])",
    )
    .bind(id)
    .bind(payload)
    .bind(again)
    .bind(options.0)
    .bind(options.1)
    .bind(options.2)
    .fetch_one(connection)
    .await?;
    Ok((
        ids.map_or(id, |ids| ids[0]),
        came_of.map_or("created".to_owned(), |came_of| came_of[0].clone()),
    ))
}

/// The connection broke and the call is sent again, whatever has happened meanwhile.
#[conductor::test]
async fn a_call_that_is_sent_again_gives_its_answer_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    test.invoke::<G12Run>(0).delay(HOUR).await?;
    let mut conn = session(&test).await?;
    let key = (Some("k"), None, None);
    let throttled = (Some("t"), Some(3_600_000), None);
    let debounced = (None, None, Some(3_600_000));
    for options in [key, throttled, debounced] {
        let [first, second, third] = [(); 3].map(|()| Uuid::now_v7());
        let made = send(&mut conn, first, "1", options, false).await?;
        assert_eq!(made, (first, "created".to_owned()));
        assert_eq!(send(&mut conn, first, "1", options, true).await?, made);
        let next = send(&mut conn, second, "2", options, false).await?;
        assert_eq!(send(&mut conn, second, "2", options, true).await?, next);
        assert_eq!(next.0, first);
        // Somebody else replaces it, and the first two come again.
        let last = send(&mut conn, third, "3", options, false).await?;
        let stands = if options == throttled { "1" } else { "3" };
        for _ in 0..2 {
            assert_eq!(send(&mut conn, second, "2", options, true).await?, next);
            assert_eq!(send(&mut conn, first, "1", options, true).await?, made);
            assert_eq!(payload(&test, first).await?, stands);
            // In the second round it has ended.
            test.advance(if options == debounced {
                HOUR
            } else {
                Duration::ZERO
            })
            .await?;
            test.drain().await?;
        }
        assert_eq!(send(&mut conn, third, "3", options, true).await?, last);
        let came_of = if options == throttled {
            "throttled"
        } else {
            "replaced"
        };
        assert_eq!((next.1.as_str(), last.1.as_str()), (came_of, came_of));
        assert_eq!(
            ran.take()
                .into_iter()
                .filter(|n| *n != 0)
                .collect::<Vec<_>>(),
            [stands.parse::<i64>()?]
        );
    }
    // Sent again without having been there before.
    let id = Uuid::now_v7();
    let made = send(&mut conn, id, "9", (Some("late"), None, None), true).await?;
    assert_eq!(made, (id, "created".to_owned()));
    Ok(())
}

/// The first statement is still under way when it is sent again.
#[conductor::test]
async fn a_call_that_overtakes_itself_makes_nothing_twice(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.invoke::<G12Run>(0).delay(HOUR).await?;
    let (mut slow, mut other) = (session(&test).await?, session(&test).await?);
    for (n, options) in [
        (Some("k"), None, None),
        (Some("t"), Some(3_600_000), None),
        (None, Some(3_600_000), None),
        (None, None, Some(3_600_000)),
    ]
    .into_iter()
    .enumerate()
    {
        let replaced = Uuid::now_v7();
        for id in [Uuid::now_v7(), replaced] {
            sqlx::query("begin").execute(&mut slow).await?;
            let first = send(&mut slow, id, "1", options, false).await?;
            let again = tokio::spawn({
                let test_url = test.url().to_owned();
                async move {
                    let mut conn = <PgConnection as sqlx::Connection>::connect(&test_url).await?;
                    let options = (options.0, options.1, options.2);
                    send(&mut conn, id, "1", options, true).await
                }
            });
            blocked(&test).await;
            sqlx::query("commit").execute(&mut slow).await?;
            assert_eq!(soon("the repeat", again).await??, first);
        }
        let made = "select count(*) from conductor.live_executions";
        assert_eq!(number(&test, made).await, 2 + i64::try_from(n)?);
    }
    // Nobody is left that holds a lock.
    send(
        &mut other,
        Uuid::now_v7(),
        "2",
        (Some("k"), None, None),
        false,
    )
    .await?;
    Ok(())
}

#[conductor::test]
async fn what_cannot_be_is_refused(test: TestConductor) -> anyhow::Result<()> {
    let long = "ä".repeat(101);
    let century = Duration::from_secs(1001 * 365 * 24 * 3600);
    let say = || test.invoke::<G12Run>(1);
    let refused = [
        (say().dedupe_key(""), "1 to 200 bytes, and this one has 0"),
        (say().dedupe_key(&long), "this one has 202"),
        (say().dedupe_key("a\0b"), "U+0000 (byte 1)"),
        (say().throttle(Duration::ZERO), "shorter than a millisecond"),
        (
            say().debounce(Duration::from_micros(999)),
            "a debounce of 999us is shorter",
        ),
        (say().throttle(century), "longer than 1000 years"),
        (say().debounce(Duration::MAX), "longer than 1000 years"),
        (say().throttle(HOUR).debounce(HOUR), "give one of them"),
        (say().debounce(HOUR).throttle(HOUR), "give one of them"),
        (say().debounce(HOUR).delay(HOUR), "no run_at or delay"),
        (
            say().run_at(test.now().await?).debounce(HOUR),
            "no run_at or delay",
        ),
    ];
    for (invoke, reason) in refused {
        match invoke.await {
            Err(Error::Invalid(text)) => assert!(text.contains(reason), "{text}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    // One of many: none is made.
    let batch = [
        Invocation::<G12Run>::new(1).dedupe_key("a"),
        Invocation::new(2).dedupe_key(""),
    ];
    let refused = test.invoke_batch_with(batch).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");

    say().dedupe_key("ä".repeat(100)).delay(HOUR).await?;
    for options in [
        "dedupe_key => ''",
        "dedupe_key => repeat('ä', 101)",
        "throttle => '0'",
        "throttle => '-1 hour'",
        "throttle => '1001 years'",
        "debounce => '999 microseconds'",
        "debounce => '1 hour', throttle => '1 hour'",
        "debounce => '1 hour', delay => '1 hour'",
        "debounce => '1 hour', run_at => now()",
    ] {
        let sql = format!("select conductor.invoke('g12_run', '1', {options})");
        let error = run_sql(&test, &sql).await.unwrap_err();
        let code = crate::support::sqlstate(&error);
        assert_eq!(code.as_deref(), Some("CD002"), "{options}: {error}");
    }
    let unknown = "select conductor.invoke('g12_unknown', dedupe_key => 'k')";
    let error = run_sql(&test, unknown).await.unwrap_err();
    assert_eq!(crate::support::sqlstate(&error).as_deref(), Some("CD001"));
    let unknown = "select conductor.invoke('g12_unknown', throttle => '1 hour')";
    let error = run_sql(&test, unknown).await.unwrap_err();
    assert_eq!(crate::support::sqlstate(&error).as_deref(), Some("CD001"));
    assert_eq!(executions(&test).await, 1);
    Ok(())
}

#[conductor::test]
async fn a_refused_call_takes_no_other_along(test: TestConductor) -> anyhow::Result<()> {
    run_sql(
        &test,
        "alter table conductor.live_executions add constraint odd check (dedupe_key <> 'bad')",
    )
    .await?;
    let mut calls = JoinSet::new();
    for n in 0..50_i64 {
        let client = Conductor::clone(&test);
        calls.spawn(async move {
            let key = if n == 25 {
                "bad".to_owned()
            } else {
                n.to_string()
            };
            (n, client.invoke::<G12Run>(n).dedupe_key(key).await)
        });
    }
    while let Some(call) = calls.join_next().await {
        let (n, outcome) = call?;
        assert_eq!(outcome.is_err(), n == 25, "{n}");
        if let Ok(run) = outcome {
            assert_eq!(payload(&test, run.id()).await?, n.to_string());
        }
    }
    assert_eq!(executions(&test).await, 49);
    Ok(())
}

/// A key costs a claim nothing: its columns stay as they are. Some rows find their page full.
#[conductor::test]
async fn claims_of_keyed_ones_are_hot(test: TestConductor) -> anyhow::Result<()> {
    let (test, ..) = test_with_states(test);
    let items = (0..200).map(|n| Invocation::<G12Run>::new(n).dedupe_key(n.to_string()));
    test.invoke_batch_with(items).await?;
    test.drain().await?;
    let seen = "select case when n_tup_upd >= 200 then n_tup_hot_upd end
                  from pg_stat_all_tables where relname = 'live_executions'";
    let mut hot = None;
    while hot.is_none() {
        hot = sqlx::query_scalar::<_, Option<i64>>(seen)
            .fetch_one(test.pool())
            .await?;
    }
    assert!(hot >= Some(150), "{hot:?}");
    Ok(())
}
