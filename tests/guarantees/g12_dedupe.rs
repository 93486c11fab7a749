//! G12: one arbiter for keys, slots that count what has finished, debounce until it is quiet.

mod races;
mod slots;

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
async fn g12_run(ctx: &TaskContext, payload: i64) -> anyhow::Result<i64> {
    ctx.state::<Arc<Ran>>().push(payload);
    Ok(payload)
}

/// By its payload: 0 completes, 1 fails, 2 waits for another attempt, 3 sleeps, 4 stands at the gate.
#[task(retry(max_attempts = 2, backoff = "1h..1h", jitter = 0))]
async fn g12_end(ctx: &TaskContext, payload: i64) -> anyhow::Result<()> {
    match payload {
        1 => Err(anyhow::anyhow!("as told")).permanent(),
        2 => anyhow::bail!("not yet"),
        3 => Ok(ctx.sleep("long", 10 * HOUR).await?),
        4 => {
            ctx.state::<Arc<Gate>>().pass().await;
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

/// Invokes by a key in a step and in a transaction, and fails once, so that it runs again.
#[task(retry(max_attempts = 2, backoff = "1s"))]
async fn g12_caller(ctx: &TaskContext) -> anyhow::Result<Vec<(Uuid, String)>> {
    let conductor = ctx.state::<Conductor>();
    let say = |n| {
        let invoke = conductor.invoke::<G12Run>(n);
        invoke.dedupe_key("k").delay(HOUR)
    };
    let told = |run: Execution<G12Run>| anyhow::Ok((run.id(), run.came_of().to_string()));
    let step = ctx.step("step", || async { told(say(2).await?) }).await?;
    let within = ctx
        .transaction("transaction", async |tx| {
            told(say(3).in_transaction(tx).await?)
        })
        .await?;
    anyhow::ensure!(ctx.attempt() > 1, "not yet");
    Ok(vec![step, within])
}

#[conductor::test]
async fn a_handler_invokes_by_key(test: TestConductor) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let client = Conductor::from_pool(test.pool().clone());
    let test = test.state(client);
    let first = test.invoke::<G12Run>(1).dedupe_key("k").delay(HOUR).await?;
    let caller = test.invoke::<G12Caller>(()).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(10)).await?;
    test.drain().await?;
    let replaced = (first.id(), "replaced".to_owned());
    assert_eq!(caller.result().await?, vec![replaced; 2]);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(ran.take(), [3]);
    assert_eq!(executions(&test).await, 2);
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
        (say().max_wait(HOUR), "max_wait bounds a debounce"),
        (
            say().dedupe_key("k").max_wait(HOUR),
            "max_wait bounds a debounce",
        ),
        (
            say().max_wait(HOUR / 2).debounce(HOUR),
            "a max_wait of 30m is shorter than the debounce of 1h",
        ),
        (
            say().debounce(HOUR).max_wait(century),
            "longer than 1000 years",
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
        "max_wait => '1 hour'",
        "max_wait => '1 hour', dedupe_key => 'k'",
        "debounce => '1 hour', max_wait => '59 minutes'",
        "debounce => '1 hour', max_wait => '1001 years'",
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

#[task(concurrency(limit = 1, key = payload.tenant))]
async fn g12_limited(ctx: &TaskContext, tenant: String, stay: bool) -> anyhow::Result<()> {
    let _ = tenant;
    if stay {
        ctx.state::<Arc<Gate>>().pass().await;
    }
    Ok(())
}

/// One that waits for a limit has not started, and its new payload may name another limit.
#[conductor::test]
async fn one_that_waits_for_a_limit_is_replaced(test: TestConductor) -> anyhow::Result<()> {
    let (test, _, gate) = test_with_states(test);
    let handle = start(&test).await?;
    let limited = |tenant: &str, stay| {
        let tenant = tenant.to_owned();
        test.invoke::<G12Limited>(G12Limited { tenant, stay })
    };
    limited("a", true).await?;
    gate.entered(1).await;
    let waits = limited("a", false).dedupe_key("k").await?;
    eventually("it waits for the limit", || async {
        let parked =
            "select count(*) from conductor.live_executions where queue_id < 0 and claim = 0";
        number(&test, parked).await == 1
    })
    .await;
    let replaced = limited("b", false).dedupe_key("k").await?;
    assert_eq!(
        (replaced.id(), replaced.came_of()),
        (waits.id(), Invoked::Replaced)
    );
    soon("the other tenant's", replaced.result()).await?;
    gate.open(1);
    handle.stop().await?;
    Ok(())
}
