//! What chores and starts cost, and for whom they wait, is bounded whatever lies in the tables.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use crate::support::{declare, eventually, number, reads, run_sql, session, soon, sqlstate};

#[task(name = "chores.job")]
async fn chores_job(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

/// An execution that runs under an orchestrator, which may be none.
async fn running(test: &TestConductor, task: &str, orchestrator: i64) -> anyhow::Result<Uuid> {
    let id = sqlx::query_scalar("select conductor.invoke($1)")
        .bind(task)
        .fetch_one(test.pool())
        .await?;
    sqlx::query(
        "update conductor.live_executions set state = 'running', claim = 1, orchestrator_id = $2, claimed_at = now()
          where id = $1",
    )
    .bind(id)
    .bind(orchestrator)
    .execute(test.pool())
    .await?;
    Ok(id)
}

async fn orchestrator(test: &TestConductor, task: &str) -> anyhow::Result<i64> {
    let start =
        "select conductor.start_orchestrator('h', 1, array[t.queue_id], array[t.id], '1 hour')
                   from conductor.tasks t where t.name = $1";
    Ok(sqlx::query_scalar(start)
        .bind(task)
        .fetch_one(test.pool())
        .await?)
}

/// Each key has a lane whose next start is up to an hour ahead, rightly.
#[conductor::test]
async fn many_keys_of_a_slow_rate_are_not_read_to_find_a_wrong_time(
    test: TestConductor,
) -> anyhow::Result<()> {
    declare(&test, "chores.rated").await?;
    run_sql(
        &test,
        "insert into conductor.limits (task_id, kind, path, amount, per)
         select id, 'rate', '{key}', 1, '1 hour' from conductor.tasks where name = 'chores.rated';
         insert into conductor.lanes (limit_id, task_id, key, holders, parked, due_at, next_at)
         select c.id, c.task_id, 'key ' || g, '{}'::jsonb, true, now() + g * interval '1 s', now() + g * interval '1 s'
           from conductor.limits c, generate_series(1, 3000) g
         union all
         select c.id, c.task_id, 'wrong', '{}'::jsonb, true, now() + interval '1 year', now() + interval '1 year'
           from conductor.limits c",
    )
    .await?;
    let read = reads(&test, "lanes", "select conductor.heal_times()").await?;
    assert!(read < 100, "{read}");
    let wrong = "select count(*) from conductor.lanes where due_at > now() + interval '1 hour'";
    assert_eq!(number(&test, wrong).await, 0);
    let right = "select count(*) from conductor.lanes where due_at > now() + interval '1 minute'";
    assert!(number(&test, right).await > 2000);
    Ok(())
}

/// Whoever ends an orchestrator has its row before its lanes.
#[conductor::test]
async fn whoever_disowns_takes_the_orchestrators_row_before_its_lanes(
    test: TestConductor,
) -> anyhow::Result<()> {
    declare(&test, "chores.disowned").await?;
    let mine = orchestrator(&test, "chores.disowned").await?;
    run_sql(
        &test,
        &format!(
            "insert into conductor.limits (task_id, kind, path, amount, per)
             select id, 'concurrency', '{{}}', 1, null from conductor.tasks where name = 'chores.disowned';
             insert into conductor.lanes (limit_id, task_id, key, holders)
             select c.id, c.task_id, '', '{{\"{mine}\": 1}}' from conductor.limits c"
        ),
    )
    .await?;
    let disown = format!(
        "select conductor.disown({mine}, (select queue_id from conductor.tasks where name = 'chores.disowned'),
                                 '{{}}', '{{}}', '{{}}', 1)"
    );
    let lanes = "select id from conductor.lanes for no key update nowait";

    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    let row = format!("select id from conductor.orchestrators where id = {mine} for update");
    sqlx::raw_sql(AssertSqlSafe(row)).execute(&mut *tx).await?;
    let look = async {
        eventually("the wait", || async {
            number(
                &test,
                "select count(*) from pg_stat_activity
                  where datname = current_database() and wait_event_type = 'Lock' and query like '%disown%'
                    and pid <> pg_backend_pid()",
            )
            .await
                == 1
        })
        .await;
        sqlx::raw_sql(lanes).execute(&mut *tx).await?;
        tx.commit().await
    };
    let (disowned, looked) = tokio::join!(run_sql(&test, &disown), look);
    looked?;
    disowned?;
    let held = "select count(*) from conductor.lanes where holders <> '{}'";
    assert_eq!(number(&test, held).await, 0);

    // A lane that somebody holds for long keeps the row, and with it the heartbeat, only shortly.
    let mut tx = other.begin().await?;
    run_sql(
        &test,
        &format!("update conductor.lanes set holders = '{{\"{mine}\": 1}}'"),
    )
    .await?;
    sqlx::raw_sql(lanes).execute(&mut *tx).await?;
    let refused = soon("the refusal", run_sql(&test, &disown)).await;
    assert_eq!(sqlstate(&refused.unwrap_err()).as_deref(), Some("55P03"));
    tx.rollback().await?;
    run_sql(&test, &disown).await?;
    assert_eq!(number(&test, held).await, 0);
    Ok(())
}

/// However many there are, a wrong build does not spend its time on them.
#[conductor::test]
async fn the_more_cannot_be_read_the_less_often_each_is_tried(
    test: TestConductor,
) -> anyhow::Result<()> {
    declare(&test, "chores.unreadable").await?;
    let mine = orchestrator(&test, "chores.unreadable").await?;
    let leave = async || -> anyhow::Result<i64> {
        let id = running(&test, "chores.unreadable", mine).await?;
        let left = format!(
            "select conductor.leave_unreadable({mine}, array['{id}']::uuid[], array[1], array['no'])"
        );
        run_sql(&test, &left).await?;
        let seconds = format!(
            "select extract(epoch from run_at - conductor.now())::bigint from conductor.live_executions
              where id = '{id}'"
        );
        Ok(number(&test, &seconds).await)
    };
    assert!(leave().await? <= 1);
    run_sql(
        &test,
        "insert into conductor.unreadable (
                execution_id, task_id, left_claim, times, run_at, since, noted_at, tried, reader, reason)
         select gen_random_uuid(), t.id, 2, 1, now(), now(), now(), '{}', 'x', 'x'
           from conductor.tasks t, generate_series(1, 4000) where t.name = 'chores.unreadable'",
    )
    .await?;
    let delay = leave().await?;
    assert!((150..=210).contains(&delay), "{delay}");
    Ok(())
}

/// A retry with a long backoff is nobody's fault.
#[conductor::test]
async fn whoever_looks_for_wrong_times_locks_no_retry_that_is_right(
    test: TestConductor,
) -> anyhow::Result<()> {
    declare(&test, "chores.retried").await?;
    let mut ids = Vec::new();
    for ahead in ["0", "1 year"] {
        let id: Uuid = sqlx::query_scalar("select conductor.invoke('chores.retried')")
            .fetch_one(test.pool())
            .await?;
        run_sql(
            &test,
            &format!(
                "update conductor.live_executions set failures = 1, run_at = now() + interval '{ahead}' + interval '1 hour'
                  where id = '{id}';
                 insert into conductor.failures (execution_id, attempt, failed_at, error)
                 values ('{id}', 1, now() + interval '{ahead}', 'x')"
            ),
        )
        .await?;
        ids.push(id);
    }
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    let healed: i32 = sqlx::query_scalar("select conductor.heal_executions()")
        .fetch_one(&mut *tx)
        .await?;
    assert_eq!(healed, 1);
    let lock = format!(
        "select id from conductor.live_executions where id = '{}' for update nowait",
        ids[0]
    );
    run_sql(&test, &lock).await?;
    tx.commit().await?;
    let far =
        "select count(*) from conductor.live_executions where run_at > now() + interval '2 hours'";
    assert_eq!(number(&test, far).await, 0);
    Ok(())
}

/// The look at all rows is not repeated for those few.
#[conductor::test]
async fn an_orphan_that_somebody_has_locked_is_brought_when_it_is_free(
    test: TestConductor,
) -> anyhow::Result<()> {
    declare(&test, "chores.orphan").await?;
    let id = running(&test, "chores.orphan", 999_999).await?;
    let due = "select count(*) from conductor.chores where name = 'orphans' and due_at <= clock_timestamp()";
    let crashes = "select coalesce(max(crashes), 0)::bigint from conductor.live_executions
                    where state = 'pending'";
    run_sql(
        &test,
        "update conductor.chores set due_at = now() + interval '1 hour'",
    )
    .await?;
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    sqlx::query("select id from conductor.live_executions where id = $1 for update")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    for _ in 0..2 {
        run_sql(&test, "select conductor.recover_orphans(5)").await?;
    }
    assert_eq!(number(&test, due).await, 0);
    let look = "select conductor.do_deferred(10, 5)::bigint";
    assert_eq!(number(&test, look).await, 0);
    tx.rollback().await?;
    assert_eq!(number(&test, look).await, 1);
    assert_eq!(number(&test, crashes).await, 1);
    let left = "select count(*) from conductor.deferred";
    assert_eq!(number(&test, left).await, 0);
    Ok(())
}

/// Any role can take these locks.
#[conductor::test]
async fn a_start_says_whose_lock_it_does_not_get(test: TestConductor) -> anyhow::Result<()> {
    let mut other = session(&test).await?;
    let mut tx = other.begin().await?;
    sqlx::raw_sql(
        "select pg_advisory_xact_lock(27988542616855412);
         select pg_advisory_xact_lock(hashtextextended('conductor.' || name, 0))
           from unnest('{declare_subscriptions, declare_schedules, row_triggers}'::text[]) as name",
    )
    .execute(&mut *tx)
    .await?;
    let holder: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *tx)
        .await?;
    let orchestrator = test.orchestrator().build()?;
    let (start, lease, subscriptions, rows) = soon("the errors", async {
        tokio::join!(
            orchestrator.start(),
            run_sql(
                &test,
                "select conductor.start_orchestrator('h', 1, '{}', '{}', '1 hour')"
            ),
            run_sql(
                &test,
                "select conductor.declare_subscriptions('{}', '{}', '[]', '[]')"
            ),
            run_sql(
                &test,
                "select conductor.declare_row_triggers('{}', '{}', '[]')"
            ),
        )
    })
    .await;
    let errors = [
        start.err().map(|error| error.to_string()),
        lease.err().map(|error| error.to_string()),
        subscriptions.err().map(|error| error.to_string()),
        rows.err().map(|error| error.to_string()),
    ];
    for error in errors {
        let error = error.unwrap_or_default();
        let told = format!("pg_terminate_backend({holder})");
        assert!(error.contains(&told), "{error}");
    }
    tx.rollback().await?;
    let worker = test.orchestrator().build()?.start().await?;
    worker.stop().await?;
    Ok(())
}
