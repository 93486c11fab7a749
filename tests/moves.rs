//! A task that moves to another queue takes along what waits for it, whatever transactions are open.

use conductor::testing::TestConductor;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::{declare, number, reads, run_sql, session};

/// Declares the task again, in another queue, as the next build does.
async fn move_to(test: &TestConductor, task: &str, queue: &str) -> anyhow::Result<()> {
    let again = format!(
        "select conductor.declare_tasks((
                select jsonb_build_array(jsonb_build_object(
                    'name', t.name, 'queue', '{queue}', 'package', t.package, 'place', t.place, 'docs', t.docs,
                    'priority', 0, 'max_attempts', 3, 'backoff_initial_ms', 15000, 'backoff_max_ms', 7200000,
                    'jitter', 0, 'timeout_ms', null, 'keep_completed_ms', 1000, 'keep_failed_ms', 1000,
                    'payload_schema', true, 'output_schema', true))
                  from conductor.tasks t where t.name = '{task}'), true)"
    );
    Ok(run_sql(test, &again).await?)
}

async fn invoke(session: &mut PgConnection, task: &str) -> anyhow::Result<Uuid> {
    let invoke = sqlx::query_scalar("select conductor.invoke($1)").bind(task);
    Ok(invoke.fetch_one(session).await?)
}

/// How many live executions are in the queue.
async fn within(test: &TestConductor, queue: &str) -> i64 {
    let sql = format!(
        "select count(*) from conductor.live_executions l
           join conductor.queues q on q.id = l.queue_id where q.name = '{queue}'"
    );
    number(test, &sql).await
}

/// Looks until there is nothing more to look at for now.
async fn follow(test: &TestConductor) -> i64 {
    let mut all = 0;
    loop {
        let (moved, more): (i32, bool) =
            sqlx::query_as("select moved, more from conductor.follow_moves()")
                .fetch_one(test.pool())
                .await
                .unwrap();
        all += i64::from(moved);
        if !more {
            return all;
        }
    }
}

#[conductor::test]
async fn an_invoke_in_an_open_transaction_follows_its_task(
    test: TestConductor,
) -> anyhow::Result<()> {
    declare(&test, "moves.invoked").await?;
    let mut open = session(&test).await?;
    sqlx::raw_sql("begin").execute(&mut open).await?;
    invoke(&mut open, "moves.invoked").await?;
    move_to(&test, "moves.invoked", "moves.other").await?;
    assert_eq!(follow(&test).await, 0);
    sqlx::raw_sql("commit").execute(&mut open).await?;
    assert_eq!(within(&test, "default").await, 1);
    let looked = "update conductor.moves set looked_at = looked_at - interval '1 minute'";
    run_sql(&test, looked).await?;
    assert_eq!(follow(&test).await, 1);
    assert_eq!(within(&test, "moves.other").await, 1);

    // Back again, with another transaction that has not seen it.
    sqlx::raw_sql("begin isolation level repeatable read; select 1")
        .execute(&mut open)
        .await?;
    move_to(&test, "moves.invoked", "default").await?;
    invoke(&mut open, "moves.invoked").await?;
    sqlx::raw_sql("commit").execute(&mut open).await?;
    assert_eq!(
        (
            within(&test, "default").await,
            within(&test, "moves.other").await
        ),
        (1, 1)
    );
    run_sql(&test, looked).await?;
    assert_eq!(follow(&test).await, 1);
    assert_eq!(within(&test, "default").await, 2);
    Ok(())
}

/// A worker of the new build starts meanwhile: it waits for nobody.
#[conductor::test]
async fn one_that_somebody_has_locked_follows_its_task(test: TestConductor) -> anyhow::Result<()> {
    declare(&test, "moves.locked").await?;
    let mut open = session(&test).await?;
    let id = invoke(&mut open, "moves.locked").await?;
    invoke(&mut open, "moves.locked").await?;
    sqlx::raw_sql("begin").execute(&mut open).await?;
    sqlx::query("select conductor.cancel($1)")
        .bind(id)
        .execute(&mut open)
        .await?;
    let moved = move_to(&test, "moves.locked", "moves.another");
    tokio::time::timeout(std::time::Duration::from_secs(20), moved).await??;
    sqlx::raw_sql("rollback").execute(&mut open).await?;
    assert_eq!(
        (
            within(&test, "default").await,
            within(&test, "moves.another").await
        ),
        (1, 1)
    );
    assert_eq!(follow(&test).await, 1);
    assert_eq!(within(&test, "moves.another").await, 2);
    open.close().await?;
    Ok(())
}

/// A look reads a portion of the queue, goes on from there the next time, and reaches each of the moves.
#[conductor::test]
async fn a_move_from_a_long_queue_is_followed_in_portions(
    test: TestConductor,
) -> anyhow::Result<()> {
    for task in ["moves.first", "moves.second", "moves.bystander"] {
        declare(&test, task).await?;
    }
    move_to(&test, "moves.first", "moves.fourth").await?;
    move_to(&test, "moves.second", "moves.fourth").await?;
    // What was invoked in transactions that were open, among many others of all kinds.
    run_sql(
        &test,
        "insert into conductor.live_executions (id, queue_id, task_id, priority, run_at, created_at, payload)
         select conductor.uuid7(), q.id, t.id, g % 3, now() + g * interval '1 s', now(), 'null'
           from generate_series(1, 25000) g
           join conductor.queues q on q.name = 'default'
           join conductor.tasks t
             on t.name = case g when 1 then 'moves.first' when 24999 then 'moves.first'
                                when 12500 then 'moves.second' else 'moves.bystander' end;
         update conductor.moves set looked_at = looked_at - interval '1 minute'",
    )
    .await?;
    let mut looks = 0;
    while within(&test, "moves.fourth").await < 3 {
        let read = reads(&test, "live_executions", "select conductor.follow_moves()").await?;
        assert!(read <= 11_000, "{read}");
        looks += 1;
        assert!(looks < 10, "not found");
    }
    assert_eq!(within(&test, "default").await, 24_997);
    Ok(())
}

/// Nothing is looked for that cannot be there any more.
#[conductor::test]
async fn a_move_is_forgotten_in_the_end(test: TestConductor) -> anyhow::Result<()> {
    declare(&test, "moves.old").await?;
    move_to(&test, "moves.old", "moves.third").await?;
    // As if no transaction were older: those of other tests, on the same server, may be.
    run_sql(
        &test,
        "update conductor.moves set moved_at = moved_at - interval '2 days',
                looked_at = looked_at - interval '1 day', moved_by = '3'",
    )
    .await?;
    follow(&test).await;
    let left = "select count(*) from conductor.moves";
    assert_eq!(number(&test, left).await, 0);
    Ok(())
}
