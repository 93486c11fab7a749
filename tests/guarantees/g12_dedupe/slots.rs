//! Throttle and debounce.

use conductor::testing::TestConductor;
use conductor::{Invocation, Invoked, Status};

use super::*;

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
async fn calls_that_never_pause_put_a_debounced_one_off_up_to_its_max_wait(
    test: TestConductor,
) -> anyhow::Result<()> {
    const MINUTE: Duration = Duration::from_secs(60);
    let (test, ran, _) = test_with_states(test);
    // By each way to invoke; three and a half hours behind the first call it starts, with the newest payload.
    for way in ["invoke", "batch", "transaction", "sql"] {
        let say = async |n: i64| -> anyhow::Result<()> {
            let invoke = test
                .invoke::<G12Run>(n)
                .max_wait(HOUR * 7 / 2)
                .dedupe_key(way)
                .debounce(HOUR);
            match way {
                "invoke" => drop(invoke.await?),
                "batch" => {
                    // As if they came one by one.
                    let item = |n| {
                        let item = Invocation::<G12Run>::new(n).debounce(HOUR);
                        item.max_wait(HOUR * 7 / 2).dedupe_key(way)
                    };
                    test.invoke_batch_with([item(0), item(n)]).await?;
                }
                "transaction" => {
                    let mut tx = test.pool().begin().await?;
                    invoke.in_transaction(&mut tx).await?;
                    tx.commit().await?;
                }
                _ => {
                    let sql = format!(
                        "select conductor.invoke('g12_run', '{n}', dedupe_key => '{way}', debounce => '1 hour',
                                                 max_wait => '3 hours 30 minutes')"
                    );
                    run_sql(&test, &sql).await?;
                }
            }
            Ok(())
        };
        say(1).await?;
        for n in 2..=4 {
            test.advance(HOUR - MINUTE).await?;
            test.drain().await?;
            assert!(ran.take().is_empty(), "{way}");
            say(n).await?;
        }
        // 2 h 57 min behind the first one, and so 33 minutes before the end.
        test.advance(MINUTE * 32).await?;
        test.drain().await?;
        assert!(ran.take().is_empty(), "{way}");
        say(5).await?;
        test.advance(MINUTE + MINUTE / 2).await?;
        test.drain().await?;
        assert_eq!(ran.take(), [5], "{way}");
        // The next burst counts anew, and one that pauses is not held up to the end.
        say(6).await?;
        test.advance(HOUR).await?;
        test.drain().await?;
        assert_eq!(ran.take(), [6], "{way}");
    }
    Ok(())
}

#[conductor::test]
async fn a_call_without_max_wait_takes_the_bound_away(test: TestConductor) -> anyhow::Result<()> {
    let say = || test.invoke::<G12Run>(1).debounce(HOUR);
    let first = say().max_wait(HOUR).await?;
    test.advance(HOUR / 2).await?;
    let due = async || -> anyhow::Result<i64> {
        let due = info(&test, first.id()).await?.run_at.unwrap() - test.now().await?;
        Ok(due.num_seconds())
    };
    say().max_wait(HOUR).await?;
    assert!((1790..=1800).contains(&due().await?), "{}", due().await?);
    say().await?;
    assert!((3590..=3600).contains(&due().await?), "{}", due().await?);
    // Past its end already: at once.
    test.advance(HOUR * 9 / 10).await?;
    say().max_wait(HOUR).await?;
    assert!(due().await? < 0);
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
