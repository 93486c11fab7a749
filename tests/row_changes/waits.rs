//! `ctx.wait_for_insert`, `_update` and `_delete`, under the promise of G9.

use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Field, Registry, RowOp, Status};

use super::Listening;
use super::tables::{OPS, User, installed, prepared};
use crate::support::{eventually, number, run_sql, soon};

const HOUR: Duration = Duration::from_secs(60 * 60);
const PLAN: Field<User, Option<String>> = Field::new(&["plan"]);

/// Waits for so many changes; gives the ids of their rows.
#[task(
    linked = false,
    name = "rows.waits",
    retry(max_attempts = 2, backoff = "1s")
)]
async fn row_waits(ctx: &TaskContext, op: RowOp, times: u32) -> anyhow::Result<Vec<i64>> {
    let mut ids = Vec::new();
    for time in 0..times {
        let key = format!("{op} {time}");
        let wait = match op {
            RowOp::Insert => ctx.wait_for_insert::<User>(key, "public.users"),
            RowOp::Update => ctx
                .wait_for_update::<User>(key, "users")
                .columns(["secret"]),
            RowOp::Delete => ctx.wait_for_delete::<User>(key, "users"),
        };
        let change = wait.when(PLAN.eq("pro")).await?;
        assert_eq!(change.op, op);
        ids.push(change.into_row().unwrap().id);
    }
    Ok(ids)
}

#[task(linked = false, name = "rows.impatient", retry(max_attempts = 1))]
async fn row_impatient(ctx: &TaskContext) -> anyhow::Result<String> {
    let waited = ctx
        .wait_for_update::<User>("upgrade", "public.users")
        .when(PLAN.eq("pro").on_new().and(PLAN.is_null().on_old()))
        .timeout(HOUR)
        .await;
    match waited {
        Ok(change) => Ok(change.into_row().unwrap().email),
        Err(error @ Error::NoRow { .. }) => Ok(error.to_string()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn add(registry: Registry) -> Registry {
    registry
        .task::<RowWaits>()
        .task::<RowImpatient>()
        .task::<RowLost>()
}

#[task(
    linked = false,
    name = "rows.lost",
    retry(max_attempts = 5, backoff = "1s")
)]
async fn row_lost(ctx: &TaskContext, table: String, column: String) -> anyhow::Result<()> {
    ctx.wait_for_update::<User>("never", table)
        .columns([column])
        .await?;
    Ok(())
}

async fn waiting(test: &TestConductor, waits: i64) {
    let sql = "select count(*) from conductor.waits w
                 join conductor.live_executions l on l.id = w.execution_id and l.state = 'suspended'
                where w.kind = 'row'";
    eventually("waits", || async { number(test, sql).await == waits }).await;
}

#[conductor::test]
async fn a_change_wakes_who_waits_and_later_waits_see_what_came_since_their_creation(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let mut runs = Vec::new();
    for op in OPS {
        runs.push(test.invoke::<RowWaits>(RowWaits { op, times: 2 }).await?);
    }
    // The first wait for each operation makes its trigger, where no task has.
    test.drain().await?;
    waiting(&test, 3).await;
    // Created before the changes, and run after them.
    let late = test
        .invoke::<RowWaits>(RowWaits {
            op: RowOp::Insert,
            times: 2,
        })
        .await?;
    run_sql(
        &test,
        "insert into users values (1, 'a', 'pro'), (2, 'b', 'free'), (3, 'c', 'pro');
         update users set plan = 'pro';
         update users set secret = 's' where id > 1;
         update users set secret = 's';
         delete from users where id < 3",
    )
    .await?;
    test.drain().await?;
    let after = test
        .invoke::<RowWaits>(RowWaits {
            op: RowOp::Insert,
            times: 1,
        })
        .await?;
    test.drain().await?;
    assert_eq!(runs[0].result().await?, [1, 3]);
    assert_eq!(runs[1].result().await?, [2, 3]);
    assert_eq!(runs[2].result().await?, [1, 2]);
    assert_eq!(late.result().await?, [1, 3]);
    assert_eq!(after.status().await?, Status::Suspended);
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_change_in_an_open_transaction_is_seen_when_it_commits(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let first = test
        .invoke::<RowWaits>(RowWaits {
            op: RowOp::Insert,
            times: 1,
        })
        .await?;
    test.drain().await?;
    let mut open = test.pool().begin().await?;
    sqlx::query("insert into users values (1, 'a', 'pro')")
        .execute(&mut *open)
        .await?;
    let mut undone = test.pool().begin().await?;
    sqlx::query("insert into users values (2, 'b', 'pro')")
        .execute(&mut *undone)
        .await?;
    undone.rollback().await?;
    // Created after the statement and before its commit.
    let second = test
        .invoke::<RowWaits>(RowWaits {
            op: RowOp::Insert,
            times: 1,
        })
        .await?;
    test.drain().await?;
    assert_eq!(first.status().await?, Status::Suspended);
    open.commit().await?;
    test.drain().await?;
    assert_eq!(first.result().await?, [1]);
    assert_eq!(second.result().await?, [1]);
    Ok(())
}

/// Another wait with other columns: whoever was writing the table when it began is waited for.
#[conductor::test]
async fn a_transaction_that_began_before_the_trigger_is_seen(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let worker = test.orchestrator().build()?.start().await?;
    let mut open = test.pool().begin().await?;
    sqlx::query("insert into users values (1, 'a', 'pro')")
        .execute(&mut *open)
        .await?;
    let run = test
        .invoke::<RowWaits>(RowWaits {
            op: RowOp::Insert,
            times: 1,
        })
        .await?;
    eventually("the wait for the lock", || async {
        let waits =
            "select count(*) from pg_locks where not granted and relation = 'users'::regclass";
        number(&test, waits).await > 0
    })
    .await;
    open.commit().await?;
    // That one came before the trigger was there; this one comes after.
    waiting(&test, 1).await;
    run_sql(&test, "insert into users values (2, 'b', 'pro')").await?;
    assert_eq!(soon("the result", run.result()).await?, [2]);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_wait_ends_in_time_or_with_what_its_filter_wants(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "insert into users values (1, 'a', 'free'), (2, 'b', null), (3, 'c', null)",
    )
    .await?;
    let run = test.invoke::<RowImpatient>(()).await?;
    test.drain().await?;
    run_sql(&test, "update users set plan = 'pro' where id = 1").await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    run_sql(&test, "update users set plan = 'pro' where id = 2").await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "b");

    let run = test.invoke::<RowImpatient>(()).await?;
    test.drain().await?;
    test.advance(2 * HOUR).await?;
    test.drain().await?;
    assert_eq!(
        run.result().await?,
        "no update of a row of public.users came in time for the wait \"upgrade\""
    );
    Ok(())
}

#[conductor::test]
async fn a_table_or_column_that_is_not_there_ends_the_execution(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    let lost = |table: &str, column: &str| RowLost {
        table: table.to_owned(),
        column: column.to_owned(),
    };
    for (payload, words) in [
        (
            lost("public.usres", "id"),
            "there is no table public.usres; did you mean public.users?",
        ),
        (
            lost("public.users", "emial"),
            "has no column \"emial\", which `columns` names; did you mean \"email\"?",
        ),
        (
            lost("keyless", "n"),
            "has no column \"email\", which suite::row_changes::tables::User reads",
        ),
        (lost("a.b.c", "n"), "is no table's name"),
    ] {
        let run = test.invoke::<RowLost>(payload).await?;
        test.drain().await?;
        let error = run.result().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(test.find(run.id()).await?.unwrap().failures, 1);
    }
    Ok(())
}

#[conductor::test]
async fn without_ddl_a_wait_names_what_is_missing(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let lost = || RowLost {
        table: "\"Mixed\"".to_owned(),
        column: "id".to_owned(),
    };
    run_sql(&test, "alter table \"Mixed\" add email text, add plan text").await?;
    let run = test.invoke::<RowLost>(lost()).await?;
    test.orchestrator().no_ddl().build()?.drain().await?;
    let error = run.result().await.unwrap_err().to_string();
    assert!(error.contains("triggers --sql"), "{error}");
    let wanted = test.row_triggers().await?;
    let wanted = wanted
        .iter()
        .find(|t| t.table == "public.\"Mixed\"" && t.op == RowOp::Update)
        .unwrap();
    assert_eq!(
        wanted.watches,
        ["conductor:update public.\"Mixed\" (email, id, plan) of (id)"]
    );
    run_sql(&test, wanted.sql.as_ref().unwrap()).await?;
    let run = test.invoke::<RowLost>(lost()).await?;
    test.orchestrator().no_ddl().build()?.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    Ok(())
}

#[conductor::test]
async fn a_watch_that_nobody_uses_goes_and_with_it_its_trigger(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "create table lonely (id bigint, email text, plan text)",
    )
    .await?;
    let run = test
        .invoke::<RowLost>(RowLost {
            table: "lonely".to_owned(),
            column: "id".to_owned(),
        })
        .await?;
    test.drain().await?;
    let trigger = "public.lonely update".to_owned();
    assert!(installed(&test).await?.contains(&trigger));
    // As long as one waits it stays.
    test.advance(9 * 24 * HOUR).await?;
    run_sql(&test, "select conductor.prune_row_watches()").await?;
    test.drain().await?;
    assert!(installed(&test).await?.contains(&trigger));
    run_sql(&test, "update lonely set id = 1").await?;
    test.cancel(run.id()).await?;
    run_sql(
        &test,
        "delete from conductor.waits; select conductor.prune_row_watches()",
    )
    .await?;
    test.drain().await?;
    assert!(!installed(&test).await?.contains(&trigger));
    Ok(())
}

/// Writers, waiters and a model: each waiter has each row once, in the order of the log.
#[conductor::test]
async fn concurrent_writers_lose_nothing(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let worker = test.orchestrator().build()?.start().await?;
    let mut runs = vec![
        test.invoke::<RowWaits>(RowWaits {
            op: RowOp::Insert,
            times: 60,
        })
        .await?,
    ];
    waiting(&test, 1).await;
    for _ in 0..3 {
        runs.push(
            test.invoke::<RowWaits>(RowWaits {
                op: RowOp::Insert,
                times: 60,
            })
            .await?,
        );
    }
    let writers = (0..6i64).map(|writer| {
        let pool = test.pool().clone();
        tokio::spawn(async move {
            for n in 0..10 {
                let mut tx = pool.begin().await?;
                sqlx::query("insert into users values ($1, 'u', 'pro')")
                    .bind(writer * 10 + n)
                    .execute(&mut *tx)
                    .await?;
                match n % 3 {
                    0 => tx.commit().await?,
                    _ => {
                        tokio::task::yield_now().await;
                        tx.commit().await?;
                    }
                }
            }
            Ok::<_, sqlx::Error>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    let first = soon("the first", runs[0].result()).await?;
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..60).collect::<Vec<_>>());
    for run in &runs[1..] {
        assert_eq!(soon("another", run.result()).await?, first);
    }
    worker.stop().await?;
    Ok(())
}
