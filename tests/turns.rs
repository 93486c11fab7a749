//! `ordered_by`: executions with one key run one behind the other, in the order in which they were invoked, over
//! retries, sleeps and crashes (G11).

mod starts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Reason, Status};
use sqlx::Connection;
use uuid::Uuid;

use crate::support::{Gate, Process, eventually, info, number, run_sql, session, soon, start_with};

const HOUR: Duration = Duration::from_secs(3600);

/// Each run writes two lines; each third one fails at first.
#[task(
    name = "turns.book",
    ordered_by = payload.account.number,
    retry(max_attempts = 9, backoff = "1ms..1ms"),
)]
async fn book(ctx: &TaskContext, account: Account, n: i64) -> anyhow::Result<()> {
    let conductor = ctx.state::<Conductor>();
    line(conductor, &account, n, "begins").await?;
    if n % 5 == 0 {
        ctx.sleep("a while", Duration::from_millis(5)).await?;
    }
    anyhow::ensure!(n % 3 != 0 || ctx.attempt() > 1, "the first attempt fails");
    line(conductor, &account, n, "ends").await?;
    Ok(())
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Account {
    number: String,
}

impl Account {
    fn of(number: impl ToString) -> Self {
        Self {
            number: number.to_string(),
        }
    }
}

async fn line(conductor: &Conductor, account: &Account, n: i64, what: &str) -> anyhow::Result<()> {
    sqlx::query("insert into turns_lines (account, n, what) values ($1, $2, $3)")
        .bind(&account.number)
        .bind(n)
        .bind(what)
        .execute(conductor.pool())
        .await?;
    Ok(())
}

/// Waits at a gate, sleeps, or fails.
#[task(
    name = "turns.gated",
    ordered_by = payload.account,
    retry(max_attempts = 2, backoff = "1h..1h", jitter = 0),
)]
async fn gated(ctx: &TaskContext, account: i64, way: String) -> anyhow::Result<()> {
    anyhow::ensure!(account > 0, "no such account");
    match way.as_str() {
        "sleeps" => ctx.sleep("long", HOUR).await?,
        "fails" => anyhow::bail!("no"),
        _ => ctx.state::<Arc<Gate>>().pass().await,
    }
    Ok(())
}

fn gated_of(account: i64, way: &str) -> Gated {
    Gated {
        account,
        way: way.to_owned(),
    }
}

const LINES: &str = "create table turns_lines (
    id bigint generated always as identity, account text not null, n bigint not null, what text not null)";
const LIVE: &str = "select count(*) from conductor.live_executions";
const LEFT: &str =
    "select (select count(*) from conductor.turns) + (select count(*) from conductor.deferred)";

/// Of each account the numbers come in their order, and none begins before the one before has ended; one may run again
/// behind its end, as its process has died before it could tell.
async fn in_order(test: &TestConductor, accounts: usize, each: i64) -> anyhow::Result<()> {
    let lines: Vec<(String, i64, String)> =
        sqlx::query_as("select account, n, what from turns_lines order by id")
            .fetch_all(test.pool())
            .await?;
    let mut of: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
    for (account, n, what) in lines {
        of.entry(account).or_default().push((n, what));
    }
    assert_eq!(of.len(), accounts);
    for (account, lines) in of {
        let (mut now, mut ended) = (0, false);
        for (n, what) in &lines {
            if ended && *n == now + 1 {
                (now, ended) = (*n, false);
            }
            assert_eq!(*n, now, "account {account}: {lines:?}");
            ended |= what == "ends";
        }
        assert_eq!(
            (now, ended),
            (each - 1, true),
            "account {account}: {lines:?}"
        );
    }
    Ok(())
}

/// Calls in the order of their numbers, in batches and alone.
async fn invoke_all(test: &TestConductor, accounts: i64, each: i64) -> anyhow::Result<()> {
    let payload = |n, account| Book {
        account: Account::of(account),
        n,
    };
    for n in 0..each / 2 {
        let batch = (0..accounts).map(|account| payload(n, account));
        test.invoke_batch::<Book>(batch.collect::<Vec<_>>()).await?;
    }
    for account in 0..accounts {
        let batch = (each / 2..each).map(|n| payload(n, account));
        test.invoke_batch::<Book>(batch.collect::<Vec<_>>()).await?;
    }
    Ok(())
}

#[conductor::test]
async fn those_of_a_key_run_in_order_over_retries_and_sleeps(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(&test, LINES).await?;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(start_with(&test, 8, (*test).clone()).await?);
    }
    invoke_all(&test, 6, 16).await?;
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    in_order(&test, 6, 16).await?;
    assert_eq!(number(&test, LEFT).await, 0);
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn those_of_a_key_run_in_order_over_crashes(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, LINES).await?;
    let mut processes = [Process::start(&test)?, Process::start(&test)?];
    invoke_all(&test, 5, 20).await?;
    for kill in 0..4 {
        let lines = format!(
            "select (count(*) > {})::int::bigint from turns_lines",
            20 * (kill + 1)
        );
        eventually("some runs", || async {
            sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(lines.as_str()))
                .fetch_one(test.pool())
                .await
                .is_ok_and(|more| more == 1)
        })
        .await;
        let process = &mut processes[kill % 2];
        process.kill()?;
        *process = Process::start(&test)?;
    }
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    in_order(&test, 5, 20).await?;
    assert_eq!(number(&test, LEFT).await, 0);
    Ok(())
}

#[conductor::test]
async fn one_keeps_its_turn_while_it_sleeps_and_until_its_last_attempt(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = test.state(Gate::new());
    let sleeps = test.invoke::<Gated>(gated_of(1, "sleeps")).await?;
    let fails = test.invoke::<Gated>(gated_of(1, "fails")).await?;
    let last = test.invoke::<Gated>(gated_of(1, "sleeps")).await?;
    let other = test.invoke::<Gated>(gated_of(2, "fails")).await?;
    test.drain().await?;
    assert_eq!(info(&test, sleeps.id()).await?.state, Status::Suspended);
    assert_eq!(info(&test, other.id()).await?.failures, 1);
    let why = test.why(last.id()).await?;
    let Reason::Turn {
        execution, before, ..
    } = why.reason
    else {
        panic!("{why}");
    };
    assert_eq!((execution, before), (sleeps.id(), 2));
    assert!(why.text.contains("waits for its turn"), "{why}");
    for (id, failures) in [(fails.id(), 0), (last.id(), 0)] {
        let info = info(&test, id).await?;
        assert_eq!((info.state, info.failures), (Status::Pending, failures));
    }

    // The first wakes and ends; the second fails, and waits for its next attempt with its turn.
    test.advance(HOUR).await?;
    test.drain().await?;
    sleeps.result().await?;
    assert_eq!(info(&test, fails.id()).await?.failures, 1);
    assert_eq!(info(&test, last.id()).await?.state, Status::Pending);
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(info(&test, fails.id()).await?.state, Status::Failed);
    assert_eq!(info(&test, last.id()).await?.state, Status::Suspended);
    test.advance(HOUR).await?;
    test.drain().await?;
    last.result().await?;
    assert_eq!(number(&test, LEFT).await, 0);
    Ok(())
}

#[conductor::test]
async fn whoever_is_cancelled_gives_its_turn_to_the_next(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = test.state(Gate::new());
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(test.invoke::<Gated>(gated_of(1, "sleeps")).await?);
    }
    test.drain().await?;
    // The one that has the turn, and the next one, which has not come to have it.
    for run in &runs[..2] {
        assert!(test.cancel(run.id()).await?);
    }
    test.drain().await?;
    assert_eq!(info(&test, runs[2].id()).await?.state, Status::Suspended);
    assert_eq!(info(&test, runs[3].id()).await?.state, Status::Pending);
    // Those of a key go together.
    for run in &runs[2..] {
        assert!(test.cancel(run.id()).await?);
    }
    assert_eq!(number(&test, LEFT).await, 0);
    Ok(())
}

/// What commits late was invoked before: it is the next one, and does not run beside the one that has the turn.
#[conductor::test]
async fn one_that_commits_late_waits_until_the_turn_is_free(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let mut tx = test.pool().begin().await?;
    let late = test
        .invoke::<Gated>(gated_of(1, "gate"))
        .in_transaction(&mut tx)
        .await?;
    let first = test.invoke::<Gated>(gated_of(1, "gate")).await?;
    gate.entered(1).await;
    let last = test.invoke::<Gated>(gated_of(1, "gate")).await?;
    tx.commit().await?;
    let aside = "select count(*) from conductor.live_executions where queue_id = 0";
    eventually("both wait", || async { number(&test, aside).await == 2 }).await;
    assert_eq!(gate.unseen(), 0);
    gate.open(1);
    soon("its end", first.result()).await?;
    gate.entered(1).await;
    assert_eq!(info(&test, late.id()).await?.state, Status::Running);
    gate.open(2);
    soon("its end", last.result()).await?;
    worker.stop().await?;
    Ok(())
}

/// A worker does not wait for a user's open transaction, and the next one runs when that ends.
#[conductor::test]
async fn one_that_is_locked_when_its_turn_comes_runs_when_it_is_free(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let worker = start_with(&test, 10, Arc::clone(&gate)).await?;
    let first = test.invoke::<Gated>(gated_of(1, "gate")).await?;
    gate.entered(1).await;
    let next = test.invoke::<Gated>(gated_of(1, "gate")).await?;
    let aside = "select count(*) from conductor.live_executions where queue_id = 0";
    eventually("it waits", || async { number(&test, aside).await == 1 }).await;
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    sqlx::query("select id from conductor.live_executions where id = $1 for update")
        .bind(next.id())
        .execute(&mut *tx)
        .await?;
    gate.open(1);
    soon("its end", first.result()).await?;
    // Others go on meanwhile.
    let beside = test.invoke::<Gated>(gated_of(2, "gate")).await?;
    gate.open(1);
    soon("its end", beside.result()).await?;
    gate.entered(1).await;
    tx.rollback().await?;
    gate.open(1);
    soon("its end", next.result()).await?;
    eventually("nothing is left", || async {
        number(&test, LEFT).await == 0
    })
    .await;
    worker.stop().await?;
    Ok(())
}

/// However many wait for the key of a user's open transaction, others go past them.
#[conductor::test]
async fn a_key_that_a_transaction_has_locked_keeps_no_other(
    test: TestConductor,
) -> anyhow::Result<()> {
    let gate = Gate::new();
    let test = test.state(Arc::clone(&gate));
    let first = test.invoke::<Gated>(gated_of(1, "sleeps")).await?;
    test.drain().await?;
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    sqlx::query("select conductor.cancel($1)")
        .bind(first.id())
        .execute(&mut *tx)
        .await?;
    let many = (0..600).map(|_| gated_of(1, "gate"));
    let ids = test.invoke_batch::<Gated>(many.collect::<Vec<_>>()).await?;
    let beside = test.invoke::<Gated>(gated_of(2, "gate")).await?;
    let worker = start_with(&test, 2, Arc::clone(&gate)).await?;
    gate.open(1);
    soon("its end", beside.result()).await?;
    gate.entered(1).await;
    assert_eq!(gate.unseen(), 0);
    tx.commit().await?;
    gate.open(ids.len());
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    eventually("nothing is left", || async {
        number(&test, LEFT).await == 0
    })
    .await;
    worker.stop().await?;
    Ok(())
}

/// Whoever comes back is older than what a worker has looked at last.
#[conductor::test]
async fn the_next_one_starts_at_once_however_long_it_has_waited(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = test.state(Gate::new());
    let calls = (0..40).map(|_| gated_of(1, "gate"));
    let ids = test
        .invoke_batch::<Gated>(calls.collect::<Vec<_>>())
        .await?;
    run_sql(
        &test,
        "update conductor.live_executions set run_at = run_at - interval '1 minute'",
    )
    .await?;
    let gate = Gate::new();
    let worker = start_with(&test, 2, Arc::clone(&gate)).await?;
    gate.entered(1).await;
    let aside = "select count(*) from conductor.live_executions where queue_id = 0";
    eventually("the others wait", || async {
        number(&test, aside).await == 39
    })
    .await;
    // More than a second, behind which a look begins.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    gate.open(ids.len());
    let began = std::time::Instant::now();
    eventually("the end of all", || async {
        number(&test, LIVE).await == 0
    })
    .await;
    // A look at all that is due comes once a second.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    worker.stop().await?;
    Ok(())
}

/// At this level an end does not see what claims do beside it.
#[conductor::test]
async fn what_a_repeatable_read_does_not_see_is_found(test: TestConductor) -> anyhow::Result<()> {
    let test = test.state(Gate::new());
    let first = test.invoke::<Gated>(gated_of(1, "sleeps")).await?;
    test.drain().await?;
    let next = test.invoke::<Gated>(gated_of(1, "sleeps")).await?;
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    sqlx::raw_sql("set transaction isolation level repeatable read; select 1")
        .execute(&mut *tx)
        .await?;
    test.drain().await?;
    sqlx::query("select conductor.cancel($1)")
        .bind(first.id())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    run_sql(&test, "select conductor.revive_turns()").await?;
    test.drain().await?;
    assert_eq!(info(&test, next.id()).await?.state, Status::Suspended);
    // And a turn whose execution is gone.
    run_sql(
        &test,
        "update conductor.turns set execution_id = gen_random_uuid()",
    )
    .await?;
    let last = test.invoke::<Gated>(gated_of(1, "fails")).await?;
    test.drain().await?;
    assert_eq!(info(&test, last.id()).await?.state, Status::Pending);
    assert_eq!(info(&test, last.id()).await?.failures, 0);
    run_sql(&test, "select conductor.revive_turns()").await?;
    // It goes to the first there is.
    let holders = "select count(*) from conductor.turns";
    assert_eq!(number(&test, holders).await, 0);
    test.drain().await?;
    let holder = "select count(*) from conductor.turns t join conductor.live_executions l
                    on l.id = t.execution_id and l.state = 'suspended'";
    assert_eq!(number(&test, holder).await, 1);
    Ok(())
}

/// A call that replaces the payload may name another key.
#[conductor::test]
async fn one_whose_payload_is_replaced_is_of_the_new_key(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = test.state(Gate::new());
    let call = |account, key: &str| {
        let call = test.invoke::<Gated>(gated_of(account, "sleeps"));
        call.dedupe_key(key.to_owned())
    };
    let first = call(1, "a").await?;
    test.drain().await?;
    let second = call(1, "b").await?;
    test.drain().await?;
    assert_eq!(info(&test, second.id()).await?.state, Status::Pending);
    let same = call(2, "b").await?;
    assert_eq!(same.id(), second.id());
    test.drain().await?;
    assert_eq!(info(&test, second.id()).await?.state, Status::Suspended);
    // And back: it waits behind what has the turn of the old key.
    let third = call(3, "c").delay(HOUR).await?;
    let fourth = test.invoke::<Gated>(gated_of(3, "sleeps")).await?;
    test.drain().await?;
    // The one with the delay was invoked before it.
    assert_eq!(info(&test, fourth.id()).await?.state, Status::Pending);
    assert_eq!(call(1, "c").await?.id(), third.id());
    test.drain().await?;
    assert_eq!(info(&test, fourth.id()).await?.state, Status::Suspended);
    test.advance(HOUR).await?;
    test.drain().await?;
    first.result().await?;
    second.result().await?;
    fourth.result().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    third.result().await?;
    assert_eq!(number(&test, LEFT).await, 0);
    Ok(())
}

/// Key and turn at the bounds of what a text may be.
#[conductor::test]
async fn any_key_has_its_own_order(test: TestConductor) -> anyhow::Result<()> {
    run_sql(&test, LINES).await?;
    let worker = start_with(&test, 8, (*test).clone()).await?;
    let keys = [
        "",
        " ",
        "null",
        "'\"; drop",
        "\u{1}unreadable",
        "ß",
        &"x".repeat(5000),
    ];
    let mut ids: Vec<Uuid> = Vec::new();
    for n in 0..2 {
        for key in keys {
            let account = Account::of(key);
            ids.push(test.invoke::<Book>(Book { account, n }).await?.id());
        }
    }
    for id in ids {
        soon("its end", test.execution::<Book>(id).result()).await?;
    }
    in_order(&test, keys.len(), 2).await?;
    worker.stop().await?;
    Ok(())
}
